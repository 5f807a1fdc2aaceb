"""Mutations of a tree and of bytes, and trees as YAML and JSON."""

from __future__ import annotations

import json
import math
import random
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from benchmarks.fuzz import odd
from benchmarks.fuzz.odd import Pairs, Raw

Odd = Callable[[random.Random], Any]
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_MEANT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_CHUNKS = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"{", b"}",
    b"[", b"]", b'"', b"'", b":", b",", b"\\", b"\\u0000", b"\\ud800", b"-", b"\t", b" ", b"&a ", b"*a",
    b"!!", b"#", b"%", b"?", b"1e999", b"9" * 400, b"<<: ", b"\x1b",
)  # fmt: skip


def tree(value: Any) -> Any:
    """Plain data with mappings as ``Pairs``."""
    if isinstance(value, dict):
        return Pairs([key, tree(inner)] for key, inner in value.items())
    return [tree(inner) for inner in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """The opposite of :func:`tree`; of a key that is there twice the last."""
    if isinstance(value, Pairs):
        return {_hashable(key): plain(inner) for key, inner in value}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.text if isinstance(value, Raw) else value


def _hashable(key: Any) -> Any:
    return key.text if isinstance(key, Raw) else repr(key) if isinstance(key, list) else key


def mutated(value: Any, rng: random.Random, unexpected: Odd) -> Any:
    """A copy with one to three changes; ``unexpected`` makes what is put in."""
    root = [_copy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        slots = _slots(root)
        # The root itself is one place of hundreds, but the likeliest mistake.
        holder, place = slots[0] if rng.random() < 0.03 else rng.choice(slots)
        _change(holder, place, slots, rng, unexpected)
    return root[0]


def _change(holder: Any, place: int, slots: list[tuple[Any, int]], rng: random.Random, unexpected: Odd) -> None:
    entry = isinstance(holder, Pairs)
    old = holder[place][1] if entry else holder[place]

    def put(new: Any) -> None:
        if entry:
            holder[place][1] = new
        else:
            holder[place] = new

    pick = rng.random()
    if pick < 0.45:
        put(unexpected(rng))
    elif pick < 0.55:
        put(rng.choice(([old], Pairs([["x", old]]), str(old)[:1000], [old, old], Pairs(), None)))
    elif pick < 0.63 and len(slots) > 1 and holder is not slots[0][0]:
        del holder[place]
    elif pick < 0.71 and holder is not slots[0][0]:
        holder.insert(rng.randrange(len(holder) + 1), _copy(holder[place]))
    elif pick < 0.81 and entry:
        holder[place][0] = _key(holder[place][0], rng, unexpected)
    elif pick < 0.86 and entry:
        holder.insert(place, [_key("extra", rng, unexpected), unexpected(rng)])
    elif pick < 0.93 and isinstance(old, str):
        cut = rng.randrange(len(old) + 1)
        put(old[:cut] + rng.choice(odd.TEXTS) + old[cut + rng.choice((0, 0, 1, 5)) :])
    else:
        other, where = rng.choice(slots)
        put(_copy(other[where][1] if isinstance(other, Pairs) else other[where]))


def _key(old: Any, rng: random.Random, unexpected: Odd) -> Any:
    pick = rng.random()
    if pick < 0.3:
        return unexpected(rng)
    if pick < 0.6:
        return rng.choice(odd.TEXTS)
    return f"{old}{rng.choice(odd.TEXTS)[:50]}" if pick < 0.8 else str(old).upper()


def _slots(root: list[Any]) -> list[tuple[Any, int]]:
    found: list[tuple[Any, int]] = []
    waiting: list[Any] = [root]
    while waiting:
        holder = waiting.pop()
        for place in range(len(holder)):
            found.append((holder, place))
            inner = holder[place][1] if isinstance(holder, Pairs) else holder[place]
            if isinstance(inner, list):
                waiting.append(inner)
    return found


def _copy(value: Any) -> Any:
    if isinstance(value, Pairs):
        return Pairs([key, _copy(inner)] for key, inner in value)
    if isinstance(value, list):
        return [_copy(inner) for inner in value]
    return value


def spoiled(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three changes; ``other`` is what may be spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _spoil(data, other, rng)
    return data


def _spoil(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 100)))
    pick = rng.randrange(14)
    if pick == 0 and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if pick == 1:
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if pick == 2:
        return data[:at] + data[end:]
    if pick in (3, 4, 5):
        return data[:at] + rng.choice(_CHUNKS) * rng.choice((1, 1, 1, 3, 1000)) + data[at:]
    if pick == 6:
        return data[:end] + data[at:]
    if pick == 7:
        return data[:at] + other[rng.randrange(len(other) + 1) :]
    if pick == 8:
        return data[:at]
    if pick == 9:
        return rng.choice((b"", b"\n", b" \n ", b"\0" * 100, b"\xff\xfe", rng.randbytes(60)))
    text = data.decode("utf-8", "replace")
    if pick == 10:
        encoding = rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig", "utf-7"))
        return text.encode(encoding, "replace")
    if pick == 11:
        return text.replace("\n", rng.choice(("\r\n", "\r", "\x85", "\u2028", "\n\n", "\n\t"))).encode()
    if pick == 12:
        return unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKC", "NFKD")), text).encode()
    return text.replace(" ", rng.choice(("\u00a0", "\u200b", "\u3000", "\t", ""))).encode()


def encoded(text: str) -> bytes:
    """UTF-8, with halves of surrogate pairs as they are."""
    return text.encode("utf-8", "surrogatepass")


def to_json(value: Any, ascii_only: bool = False) -> str:
    """A tree as JSON on one line."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        entries = (f"{_json_key(key, ascii_only)}: {to_json(inner, ascii_only)}" for key, inner in value)
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(to_json(inner, ascii_only) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def _json_key(key: Any, ascii_only: bool) -> str:
    if isinstance(key, Raw):
        return key.text
    return json.dumps(key if isinstance(key, str) else str(key), ensure_ascii=ascii_only)


def to_yaml(value: Any, indent: int = 0) -> str:
    """A tree as YAML: mappings as blocks, lists in brackets."""
    if isinstance(value, Pairs) and value:
        lead = "  " * indent
        lines = []
        for key, inner in value:
            nested = isinstance(inner, Pairs) and inner
            lines.append(f"{lead}{_yaml_scalar(key)}:" + ("\n" if nested else " ") + to_yaml(inner, indent + 1))
        return "\n".join(lines)
    return _yaml_flow(value)


def _yaml_flow(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{_yaml_scalar(key)}: {_yaml_flow(inner)}" for key, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml_flow(inner) for inner in value) + "]"
    return _yaml_scalar(value)


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, str):
        return (
            value if _PLAIN.fullmatch(value) and value.lower() not in _MEANT else json.dumps(value, ensure_ascii=False)
        )
    if isinstance(value, list):
        return _yaml_flow(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)
