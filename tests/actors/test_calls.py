"""What is kept of Ray's text about a process that died."""

from __future__ import annotations

import pytest

from actors.runtime.calls import last_words

DIED = "The actor died because of an error raised in its creation task, ray::Rollout.__init__() (pid=1)"
TRACE = "Traceback (most recent call last):\n  File 'x.py', line 3, in __init__\n    raise ValueError('no')\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, User-specified max_model_len (9999) is greater than the derived length [type=value]\n"
            "    For further information visit https://errors.pydantic.dev/2.12/v/value_error\n",
            ["1 validation error for ModelConfig Value error, User-specified max_model_len (9999) is greater"],
        ),
        ("RuntimeError: out of memory\nSee https://pytorch.org/docs\n", ["RuntimeError: out of memory"]),
        ("ValueError: no\nhttps://example.org/why\n\n", ["ValueError: no"]),
        ("ValueError: read https://example.org first\n", ["ValueError: read https://example.org first"]),
        ("KeyError: 'a'\n\nDuring handling of it:\n\nOSError: two\nlines of it\n", ["OSError: two lines of it"]),
        ("nothing that looks like an exception\n", ["nothing that looks like an exception"]),
    ],
)
def test_the_exceptions_own_words_are_kept_and_no_address(text: str, kept: list[str]) -> None:
    found = last_words(f"{DIED}\n{TRACE}{text}")
    assert found.startswith(DIED)
    assert all(part in found for part in kept)
    assert "errors.pydantic.dev" not in found
    assert "pytorch.org" not in found
    assert "Traceback" not in found


def test_short_and_long_texts() -> None:
    assert last_words("") == ""
    assert last_words("The node died.") == "The node died."
    assert len(last_words(f"{DIED}\nValueError: {'x' * 10_000}")) < 1100
