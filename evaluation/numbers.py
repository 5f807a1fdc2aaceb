"""Numbers as models write them in many languages: digits, separators, fractions, counting words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

# The comma is the decimal sign there and the point or a space groups thousands (Unicode CLDR).
_COMMA_LANGUAGES = "bg ca cs da de el es et fi fr gl hr hu id it lt lv nb nl pl pt ro ru sk sl sr sv tr uk vi"
_DECIMAL_COMMA = frozenset(_COMMA_LANGUAGES.split())
# A plain space groups thousands there; elsewhere two numbers beside each other are two numbers.
_SPACE_LANGUAGES = "bg cs es et fi fr hu lt lv nb pl pt ru sk sv uk"
_SPACED = frozenset(_SPACE_LANGUAGES.split())

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅛": "1/8", "⅜": "3/8"}
_THIN = "\u00a0\u202f\u2009\u2007\u2008"  # spaces that only ever group digits
_GROUPING = "\x1f"  # what they become, so that a plain space stays plain

# Signs that stand for an ASCII one: Arabic separators, minus and dashes, full-width forms.
_SIGNS = {
    **dict.fromkeys(_THIN, _GROUPING),
    **dict.fromkeys("\u066c\uff0c\uff64", ","),
    **dict.fromkeys("\u066b\uff0e", "."),
    **dict.fromkeys("\u2212\u2013\uff0d\ufe63", "-"),
    **dict.fromkeys("\u2044\uff0f", "/"),
    "\u060c": ", ",  # the Arabic comma is punctuation, never part of a number
    "\uff1d": "=",
    "\uff04": "$",
    "\uff1a": ":",
    "\uff08": "(",
    "\uff09": ")",
}

_SCALES: dict[str, int] = {
    word: scale
    for scale, words in {
        1_000: "thousand tausend mil mille тысяча тысячи тысяч тыс 千 천 হাজার พัน వేలు వేల elfu ألف हज़ार हजार",
        10_000: "万 萬 만 หมื่น",
        100_000: "লক্ষ লাখ แสน లక్ష లక్షలు lakh laki लाख",
        1_000_000: "million millions millionen millón millones миллион миллиона миллионов млн ล้าน milioni مليون milhão "
        "milhões milione",
        100_000_000: "億 亿 억",
    }.items()
    for word in words.split()
}
_SCALE = "|".join(sorted(map(re.escape, _SCALES), key=len, reverse=True))
_CURRENCY = r"(?:US\$|R\$|[$€£¥₹৳฿₽]|Rs\.?|KSh|TSh|Sh|Ksh|USD|EUR|Tk)"
_DIGITS = rf"\d+(?:[.,'’{_GROUPING}]\d+)*"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]])[-]\s?)?(?P<before>{_CURRENCY}\s?)?(?P<minus>-)?"
    rf"(?P<digits>{_DIGITS}|(?<!\d)\.\d+)"
    rf"(?:\s?(?P<mixed>(?<=\s)\d+/\d+(?!\d))|/(?P<under>\d+)(?![\d/]))?"
    rf"(?:[ ]?(?P<scale>(?i:{_SCALE}))(?![^\W\d_一-鿿가-힣぀-ヿ\u0e00-\u0e7f]))?"
)
_KANJI_TAIL = re.compile(r"(\d+(?:\.\d+)?)\s?([億亿억万萬만千천百])")
_KANJI = {
    "億": 10**8,
    "亿": 10**8,
    "억": 10**8,
    "万": 10**4,
    "萬": 10**4,
    "만": 10**4,
    "千": 1000,
    "천": 1000,
    "百": 100,
}
_FRACTION = re.compile(r"\\[dt]?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?")
_ATTACHED = re.compile(r"(?:^|[^A-Za-z])(?!(?:Rs|Tk|USD|EUR|KSh|Ksh|TSh|Sh|kr)$)[A-Za-z]+$")


@dataclass(frozen=True, slots=True)
class Number:
    """A number found in a text; ``start`` and ``end`` are places in the *normalised* text."""

    value: Fraction
    start: int
    end: int


def normalise(text: str) -> str:
    """ASCII digits and signs for native ones, LaTeX spacing and grouping spaces unified; nothing else is touched."""
    text = _FRACTION.sub(r"\1/\2", text)
    for found in (r"\!", r"\,", r"{,}"):
        text = re.sub(rf"(?<=\d){re.escape(found)}(?=\d)", ",", text)
    text = text.replace("\\$", "$").replace("\\%", "%")
    out: list[str] = []
    for char in text:
        if char in _VULGAR:
            out.append((" " if out and out[-1].isdigit() else "") + _VULGAR[char])
        elif unicodedata.category(char) == "Nd":
            out.append(str(unicodedata.digit(char)))
        else:
            out.append(_SIGNS.get(char, char))
    joined = "".join(out)
    return re.sub(rf"(?<!\d){_GROUPING}|{_GROUPING}(?!\d)", " ", joined)


def find_numbers(text: str, language: str) -> Iterator[Number]:
    """Every number in a normalised text, in order.

    Args:
        text: From :func:`normalise`.
        language: BCP-47 code: decides what one separator alone means. A comma before exactly three digits groups
            thousands in every language, since models write the English way in all of them and answers with three
            decimals are rare; a point before three digits does so only where the comma is the decimal sign.
    """
    base = language.split("-", 1)[0].lower()
    if base in _SPACED:
        text = re.sub(
            r"(?<![\d.,/])(\d{1,3})((?: \d{3})+)(?![\d/])", lambda m: m[1] + m[2].replace(" ", _GROUPING), text
        )
    place = 0
    while found := _NUMBER.search(text, place):
        place = found.end()
        start = found.start("digits")
        if found["before"] is None and _ATTACHED.search(text[max(0, start - 12) : start]):
            continue  # m2, H2O, x1
        tail = _kanji(text, start)
        if tail is not None:
            value, place = tail
        else:
            value = _parse(found["digits"], base)
            if found["mixed"]:
                value += Fraction(found["mixed"]) if not found["mixed"].endswith("/0") else 0
            elif found["under"] and int(found["under"]):
                value /= int(found["under"])
            if found["scale"]:
                value *= _SCALES[found["scale"].lower()]
        negative = found["sign"] or found["minus"]
        yield Number(-value if negative else value, found.start(), place)


def parse_number(text: str, language: str) -> Fraction | None:
    """The first number in a text, or None."""
    return next((number.value for number in find_numbers(normalise(text), language)), None)


def _parse(digits: str, base: str) -> Fraction:
    digits = digits.replace(_GROUPING, "").replace("'", "").replace("’", "")
    points, commas = digits.count("."), digits.count(",")
    if points and commas:
        decimal = max(digits.rfind("."), digits.rfind(","))
        sign = digits[decimal]
        digits = digits.replace("," if sign == "." else ".", "")
        return _plain(digits.replace(sign, "." if digits.count(sign) == 1 else ""))
    sign = "." if points else ","
    if points + commas > 1:
        return _plain(digits.replace(sign, ""))
    whole, _, rest = digits.partition(sign)
    grouped = len(rest) == 3 and 1 <= len(whole) <= 3 and not whole.startswith("0")
    if grouped and (sign == "," or base in _DECIMAL_COMMA):
        return _plain(whole + rest)
    return _plain(digits.replace(",", "."))


def _plain(digits: str) -> Fraction:
    return Fraction("0" + digits if digits.startswith(".") else digits)


def _kanji(text: str, start: int) -> tuple[Fraction, int] | None:
    """Digits in steps of ten thousand: 11万4200, 2千5百, 1億2000万."""
    total, place, found = Fraction(0), start, False
    section = Fraction(0)
    while part := _KANJI_TAIL.match(text, place):
        found = True
        value, scale = Fraction(part[1]), _KANJI[part[2]]
        if scale >= 10**4:
            total += (section + value) * scale
            section = Fraction(0)
        else:
            section += value * scale
        place = part.end()
        if scale == 1000 and text[place : place + 1] in ("万", "萬", "만"):
            total, section, place = total + section * 10**4, Fraction(0), place + 1
    if not found:
        return None
    rest = re.match(r"(?:\d{1,4}| \d{4})(?![\d.,])", text[place:])
    if rest:
        section, place = section + int(rest[0]), place + rest.end()
    return total + section, place
