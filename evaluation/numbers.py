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
# A plain space before exactly three digits groups thousands in every language: "70 000" is the international way.
_SPACED = re.compile(r"(?<![\d.,/])([1-9]\d{0,2})((?: \d{3})+)(?![\d/])")

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅛": "1/8", "⅜": "3/8"}
_THIN = "\u00a0\u202f\u2009\u2007\u2008"  # spaces that only ever group digits
_GROUPING = "\x1f"  # what they become, so that a plain space stays plain

# Signs that stand for an ASCII one: Arabic separators, minus and dashes, full-width forms.
_SIGNS = {
    **dict.fromkeys(_THIN, _GROUPING),
    **dict.fromkeys("\u066c", ","),
    **dict.fromkeys("\uff0c\uff64", ", "),  # unless they group three digits (see normalise)
    **dict.fromkeys("\u066b\uff0e", "."),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\uff0d\ufe63", "-"),
    **dict.fromkeys("\u2044\uff0f", "/"),
    "\u060c": ", ",  # the Arabic comma is punctuation, never part of a number
    "\uff1d": "=",
    "\uff04": "$",
    "\uffe5": "¥",
    "\uffe1": "£",
    "\uff0b": "+",
    "\uff1a": ":",
    "\uff08": "(",
    "\uff09": ")",
}

_SCALES: dict[str, int] = {
    word: scale
    for scale, words in {
        100: "hundred hundert শত শো ร้อย सौ",
        1_000: "thousand thousands tausend mil mille тысяча тысячи тысяч тыс 千 천 হাজার พัน వేలు వేల elfu ألف हज़ार हजार",
        10_000: "万 萬 만 หมื่น",
        100_000: "লক্ষ লাখ แสน లక్ష లక్షలు lakh lakhs laki लाख",
        1_000_000: "million millions millionen mio millón millones миллион миллиона миллионов млн ล้าน milioni مليون "
        "milhão milhões milione মিলিয়ন",
        10_000_000: "crore crores কোটি करोड़ కోటి కోట్లు",
        100_000_000: "億 亿 억",
        1_000_000_000: "billion billions milliarde milliarden mrd milliard milliards миллиард миллиарда миллиардов "
        "млрд bilioni مليار",
    }.items()
    for word in words.split()
}
_SCALE = "|".join(sorted(map(re.escape, _SCALES), key=len, reverse=True))
_CODES = "Rs|KSh|Ksh|TSh|Tsh|Sh|Tk|USD|EUR|GBP|RMB|CNY|JPY|INR|BDT|THB|KES|TZS|RUB|CHF|kr"
_SYMBOL = r"[$¢£¤¥֏৲৳฿\u20a0-\u20cf]"
_CURRENCY = rf"(?:(?<![A-Za-z])(?:US|HK|NT|CN|R|A|C){_SYMBOL}|{_SYMBOL}|(?<![A-Za-z])(?:{_CODES})\.?)"
_DIGITS = rf"\d+(?:[.,'’{_GROUPING}]\d+)*"
_PART = (
    rf"(?P<digits>{_DIGITS}|(?<!\d)\.\d+)"
    rf"(?:\s?(?P<mixed>(?<=\s)\d+/\d+(?!\d))|/(?P<under>\d+)(?![\d/]))?"
    rf"(?:[ ]?(?P<scale>(?i:{_SCALE}))(?![^\W\d_一-鿿가-힣぀-ヿ\u0e00-\u0e7f]))?"
)
_NUMBER = re.compile(rf"(?P<before>{_CURRENCY}\s?)?(?P<minus>-)?(?<!\^)(?<!\^\{{){_PART}")
_NEXT = re.compile(rf"\.?(?P<link>,?\s*(?:(?:and|und|y|et|e|и|na|และ|এবং|ও|और)\s+)?){_PART}")
_SCALES_FIRST = {"elfu": 1000, "laki": 100_000, "milioni": 10**6, "bilioni": 10**9}  # Swahili: "elfu 70"
_SCALE_FIRST = re.compile(rf"(?i:(?<![^\W\d_])({'|'.join(_SCALES_FIRST)}))\s+({_DIGITS})")
_AND = re.compile(r"\s*(?:,|na\s)?\s*")
_MINUS_AFTER = frozenset("=(*/×÷+")
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
_ATTACHED = re.compile(rf"(?:\A|[^A-Za-z])(?!(?:{_CODES})\Z)[A-Za-z]+\Z")
_TEXT = re.compile(r"\\(?:text(?:bf|rm|it|sf|tt)?|math(?:bf|rm|it|sf|tt)|mbox)\s*\{([^{}]*)\}")
_LATEX_GROUP = re.compile(r"(?<=\d)(?:\\[!,;: ]|\{,\}|~)(?=\d)")
_WIDE_GROUP = re.compile(r"(?<=\d)[\uff0c\uff64](?=\d{3}(?!\d))")
_DOTTED = re.compile(rf"(?<![A-Za-z])({_CODES}|approx|ca)\.(?=\s?\d)")


@dataclass(frozen=True, slots=True)
class Number:
    """A number found in a text; ``start`` and ``end`` are places in the *normalised* text."""

    value: Fraction
    start: int
    end: int


def normalise(text: str) -> str:
    """ASCII digits and signs for native ones, LaTeX spacing and grouping spaces unified; nothing else is touched."""
    text = _FRACTION.sub(r"\1/\2", text)
    text = _LATEX_GROUP.sub(",", _TEXT.sub(r" \1", text))
    text = _WIDE_GROUP.sub(",", text)
    text = _DOTTED.sub(r"\1 ", text.replace("\\$", "$").replace("\\%", "%"))
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
    text = _SPACED.sub(lambda m: m[1] + m[2].replace(" ", _GROUPING), text)
    place = 0
    while found := _NUMBER.search(text, place):
        start, place = found.start("digits"), found.end()
        first = (
            _SCALE_FIRST.search(text, max(0, start - 20), start + 1 + len(found["digits"])) if base == "sw" else None
        )
        if first is not None and first.start(2) == start and not found["scale"]:
            value, place = _scales_first(text, first, base)
            yield Number(value, first.start(), place)
            continue
        if found["before"] is None and _ATTACHED.search(text[max(0, start - 12) : start]):
            continue  # m2, H2O, x1
        tail = _kanji(text, start)
        if tail is not None:
            value, place = tail
        else:
            value = _value(found, base)
            if found["scale"]:
                more, place = _smaller(text, place, _SCALES[found["scale"].lower()], base)
                value += more
        begin, negative = found.start(), found["minus"] is not None
        if not negative or found["before"] is None:
            sign = found.start("minus") if negative else _sign(text, begin)
            negative = sign is not None and _is_minus(text, sign, begin)
            begin = sign if sign is not None and negative else begin
        yield Number(-value if negative else value, begin, place)


def _value(found: re.Match[str], base: str) -> Fraction:
    value = _parse(found["digits"], base)
    if found["mixed"]:
        value += Fraction(found["mixed"]) if not found["mixed"].endswith("/0") else 0
    elif found["under"] and int(found["under"]):
        value /= int(found["under"])
    return value * _SCALES[found["scale"].lower()] if found["scale"] else value


def _smaller(text: str, place: int, scale: int, base: str) -> tuple[Fraction, int]:
    """What follows a counting word and belongs to it: "2 million 500 thousand", "2 lakh 50"; with where it ends."""
    total = Fraction(0)
    while following := _NEXT.match(text, place):
        own = _SCALES[following["scale"].lower()] if following["scale"] else 1
        value = _value(following, base)
        if value >= scale or own >= scale:
            break
        if own == 1 and (following["link"] != " " or text[place] == "." or value.denominator != 1):
            break  # "5 million, 3 of them", "1 million. 2 ..."
        total, place, scale = total + value, following.end(), own
        if own == 1:
            break
    return total, place


def _scales_first(text: str, found: re.Match[str], base: str) -> tuple[Fraction, int]:
    """ "milioni 2 na elfu 500": the counting word comes before its number."""
    total, scale, place = Fraction(0), 10**12, 0
    match: re.Match[str] | None = found
    while match is not None and _SCALES_FIRST[match[1].lower()] < scale:
        scale = _SCALES_FIRST[match[1].lower()]
        total, place = total + _parse(match[2], base) * scale, match.end()
        joint = _AND.match(text, place)
        match = _SCALE_FIRST.match(text, joint.end() if joint else place)
    return total, place


def _sign(text: str, begin: int) -> int | None:
    """Place of a dash before a number, with a space between them or none."""
    for place in (begin - 1, begin - 2):
        if place >= 0 and text[place] == "-":
            return place
        if place < 0 or text[place] != " ":
            return None
    return None


def _is_minus(text: str, sign: int, begin: int) -> bool:
    """Whether a dash before a number is a minus.

    Glued to the number it is, unless it is glued to what stands before it too ("答案-18", "16-3"). Before a space it
    is a dash or a bullet ("Answer - 18"), but after an equals sign, a bracket or an operator.
    """
    before = text[sign - 1] if sign else "\n"
    if text[begin - 1 if begin > sign else sign] == "-" and not (begin > sign + 1):
        return not (before.isalnum() or before in ")]-" or _is_mark(before))
    line = text[text.rfind("\n", 0, sign) + 1 : sign].rstrip()
    return len(line) > 1 and line[-1] in _MINUS_AFTER


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


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
    """Digits in steps of ten thousand: 11万4200, 2千5百, 1億2000万, 2百万."""
    total, place, found = Fraction(0), start, False
    section = Fraction(0)
    while part := _KANJI_TAIL.match(text, place):
        found = True
        value, scale = Fraction(part[1]), _KANJI[part[2]]
        place = part.end()
        if scale < 10**4:
            section += value * scale
            if _KANJI.get(text[place : place + 1], 0) < 10**4:
                continue
            value, scale, place = Fraction(0), _KANJI[text[place]], place + 1
        total, section = total + (section + value) * scale, Fraction(0)
    if not found:
        return None
    rest = re.match(r"(?:\d{1,4}| \d{4})(?![\d.,])", text[place:])
    if rest:
        section, place = section + int(rest[0]), place + rest.end()
    return total + section, place
