"""Seeds that depend on names alone, never on Python's hash randomisation, order or timing."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: str | int) -> int:
    """A seed from what it is for.

    Args:
        parts: What distinguishes this draw from every other (run seed, round, prompt id, ...).

    Returns:
        A non-negative integer below 2**63 (vLLM takes a signed 64-bit seed), the same on every machine.
    """
    # Length prefixes keep ("a", "bc") and ("ab", "c") apart; the type keeps 1 and "1" apart.
    text = "".join(f"{type(part).__name__}{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
