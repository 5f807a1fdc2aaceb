"""Values that readers do not expect, as trees and as fragments of YAML and JSON."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Raw:
    """Text that is put into a file as it is, whatever the format makes of it."""

    text: str


class Pairs(list[list[Any]]):
    """A mapping as a list of [key, value], so that a key can be there twice."""


TEXTS = (
    "", " ", "\0", "a\0b", "\ud800", "x\udfffy", "\ufeff", "\u200b", "\u200d\u200c", "e\u0301", "\u212b", "\u202eabc",
    "\u2028", "\x85", "\x07", "\x1b[31m", "\r", "\r\n", "\t", "\n\n", "١٨", "𝟙", "ﬁ", "😀", "null", "true", "no", "~",
    "1", "1e999", "nan", "-", "---", "[", "{", "{}", "{0}", "{name}", "{place}", "{name!r}", "{lang}", "{{", "}",
    "%s", "[/x]", "[bold]", "pt_BR", "arb_Arab", "zh-hant", "EN", "en-", "xx", "<|im_end|>", "<think>", "..", "/", ".",
    "/dev/null", "/dev/zero", "../../../..", "~root", "nul/x", "a/b\0c", "file:///etc", "http://[", "user", "\\", "'",
    '"', "x" * 300, "/".join(["y" * 200] * 30), "9" * 5000, "z" * 100_000, "\u0301" * 1000,
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 255, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, -(2**63), 2**64, 10**26, -(10**26), 10**400, 0.0, -0.0,
    0.1, 0.5, 1e-10, 5e-324, 1e-320, 1e16, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
YAML = (
    "2024-13-45", "2001-02-30", "2001-01-01", "2001-12-14t21:59:43.10-05:00", "0000-00-00", "1:30", "190:20:30", "017",
    "0o17", "0x", "0b2", "0x1F", "1_000", "1__", "._", ".inf", "-.inf", ".nan", "+.inf", "1e400", "12e03", "no", "yes",
    "on", "~", "=", "<<", "!!bool maybe", "!!int x", "!!int ''", "!!float abc", "!!timestamp x", "!!binary a",
    '!!binary "é"', "!!set {a, b}", "!!set [a]", "!!omap [a: 1]", "!!omap [a]", "!!pairs [a: 1]", "!!null x", "!!str",
    "!!str [a]", "!!map []", "!!seq {}", "!!python/object:os.system x", "!local x", "!<x> y", "! x", "&a [*a]",
    "&b {b: *b}", "*nowhere", "&c", "&d &e x", "[a, b", "{a: 1", "{a}", "{? [a, b] : 1}", "{? {a: 1} : 1}",
    "{[a]: 1}", "{1: a, 1: b}", "{null: 1}", "{1.5: x}", "{true: 1, yes: 2}", "{2001-01-01: x}", "{<<: 1}",
    "{<<: [1, 2]}", "{<<: {a: 1}}", "'open", '"open', '"\\ud800"', '"\\x00"', '"\\U00110000"', '"\\q"', "|\n  text",
    ">9\n  x", "|-+ x", "@x", "`x", "%x", "- x", "? x", ": x", "a: b: c", "#", "x #y", "\tx", "\x00", "\x01", "\x7f",
    "\x85", "\ud83d", "\ufffe", "\ufeffx", "...", "--- x", "[,]", "[a,,b]", "{,}", "\u2028", "[]", "{}", '""',
)  # fmt: skip
# Of the right form for YAML's grammar, and of a value, a tag or a character that a loader may stumble over: what is
# wrong in the grammar has ended before.
YAML_VALUES = (
    "2024-13-45", "2001-02-30", "2023-99-99", "0000-00-00", "2001-12-14t99:00:00Z", "2001-01-01", "1:30", "190:20:30",
    "._", "-._", "0x_", "0b_", "0b2", "1__", "!!bool maybe", "!!bool 2", "!!int x", "!!int 1.5", "!!int ''",
    "!!float abc", "!!float ''", "!!timestamp x", "!!timestamp 2001-13-01", "!!null x", "!!binary a", '!!binary "é"',
    "{? [a, b] : 1}", "{? {a: 1} : 1}", "{[a]: 1}", "{1: a}", "{null: 1}", "{true: 1, no: 2}", "{2001-01-01: x}",
    "{2001-13-01: x}", "{!!set {a}: 1}", "&a [*a]", "&b {b: *b}", "=", "{=: 1}", "\x00", "\x01", "\x0b", "\x1b", "\x7f",
    '"\x00"', "'\x08'", "\ud83d", "\ufffe", '"\\ud800"', '"\\U00110000"', '"\\x00"', ".inf", ".nan", "1e400",
)  # fmt: skip
JSON = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", "1.", ".5", "+1", "0x10", "'x'", "// x", "undefined",
    "None", "True", '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\x01"', '"\\x41"', '"open', "[", "{", "}", "]",
    "[1,]", '{"a":1,}', '{"a" 1}', "{1: 2}", "{}", "[]", '""', "null", "\x00", "\ufeff", "1" * 4299, "1" * 4301,
    "-" + "9" * 5000, "1e" + "9" * 400, "0." + "1" * 5000,
)  # fmt: skip


def deep(rng: random.Random, yaml: bool) -> Raw:
    """Lists or mappings within each other, closed or not."""
    depth = rng.choice((20, 200, 990, 5000, 50_000) if not yaml else (20, 200, 990, 5000))
    opening, closing = rng.choice((("[", "]"), ('{"a":' if not yaml else "{a: ", "}")))
    return Raw(opening * depth + ("1" + closing * depth if rng.random() < 0.7 else ""))


def bomb(rng: random.Random) -> Raw:
    """Aliases that multiply."""
    levels = rng.choice((3, 8, 25))
    rows = ["&l0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"&l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, levels)]
    return Raw("[" + ", ".join(rows) + "]")


def scalar(rng: random.Random) -> Any:
    """A text, a number, or nothing."""
    pick = rng.random()
    if pick < 0.5:
        return rng.choice(TEXTS)
    return rng.choice(NUMBERS) if pick < 0.9 else rng.choice((None, True, False))


def yaml_value(rng: random.Random) -> Any:
    """What stands in a YAML file where something else was expected."""
    pick = rng.random()
    if pick < 0.6:
        return Raw(rng.choice(YAML_VALUES))
    if pick < 0.75:
        return Raw(rng.choice(YAML))
    if pick < 0.79:
        return deep(rng, yaml=True) if pick < 0.77 else bomb(rng)
    return _container(rng) if pick < 0.85 else scalar(rng)


def json_value(rng: random.Random) -> Any:
    """The same for JSON."""
    pick = rng.random()
    if pick < 0.3:
        return Raw(rng.choice(JSON))
    if pick < 0.34:
        return deep(rng, yaml=False)
    return _container(rng) if pick < 0.5 else scalar(rng)


def plain_value(rng: random.Random) -> Any:
    """The same without fragments: any tree."""
    return _container(rng) if rng.random() < 0.3 else scalar(rng)


def _container(rng: random.Random) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        return []
    if kind == 1:
        return Pairs()
    if kind == 2:
        return [scalar(rng) for _ in range(rng.choice((1, 2, 5)))]
    if kind == 3:
        return Pairs([[rng.choice(TEXTS), scalar(rng)] for _ in range(rng.choice((1, 3)))])
    if kind == 4:
        return [[[scalar(rng)]]]
    return Pairs([["role", scalar(rng)], ["content", scalar(rng)]])
