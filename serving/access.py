"""Who may call: API keys, compared in constant time and kept as digests only."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence

from configs.errors import UserError
from configs.serving import ServeConfig
from serving.errors import RequestRefused

_MIN_LENGTH = 16  # a shorter key can be guessed


def digest(key: str) -> str:
    """SHA-256 of a key, hexadecimal: what is kept, passed between processes and compared."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(config: ServeConfig, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Digests of the configured API keys; none if no source is configured.

    Raises:
        UserError: A source is configured but cannot be read, holds no key, or a key that is too short or that no client
            can send.
    """
    keys: list[tuple[str, str]] = []
    if config.api_keys_file is not None:
        try:
            lines = config.api_keys_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"serve.api_keys_file: cannot read {config.api_keys_file} ({error})") from None
        found = [(f"{config.api_keys_file}:{row}", line.strip()) for row, line in enumerate(lines, 1)]
        keys += _some([(place, key) for place, key in found if key and not key.startswith("#")], "serve.api_keys_file")
    if config.api_keys_env is not None:
        values = environment.get(config.api_keys_env, "").split(",")
        keys += _some([(config.api_keys_env, v.strip()) for v in values if v.strip()], "serve.api_keys_env")
    for place, key in keys:
        if len(key) < _MIN_LENGTH:
            raise UserError(f"{place}: an API key there has fewer than {_MIN_LENGTH} characters; make a longer one")
        if not all(" " <= letter <= "~" for letter in key):
            raise UserError(
                f"{place}: an API key there has a character that is not printable ASCII, which HTTP clients cannot "
                "send in a header; use letters, digits and punctuation"
            )
    return tuple(digest(key) for _, key in keys)


def _some(keys: list[tuple[str, str]], field: str) -> list[tuple[str, str]]:
    if not keys:
        raise UserError(f"{field}: there is no key in it; put one in, or remove the field to serve without keys")
    return keys


def check_key(authorization: str | None, digests: Sequence[str]) -> None:
    """Let a caller in, or not.

    Args:
        authorization: The header, ``Bearer KEY``.
        digests: Of the valid keys; none lets everybody in.

    Raises:
        RequestRefused: 401.
    """
    if not digests:
        return
    scheme, _, key = (authorization or "").partition(" ")
    offered = digest(key.strip())
    # Every key is compared, so that the time says nothing about which.
    matches = [hmac.compare_digest(offered, known) for known in digests]
    if scheme.lower() != "bearer" or not any(matches):
        raise RequestRefused(
            401,
            "missing or wrong API key; send it as 'Authorization: Bearer KEY'",
            headers={"WWW-Authenticate": "Bearer"},
        )
