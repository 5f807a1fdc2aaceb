"""Scripts: which one a letter is of, which ones a language is written in, Simplified against Traditional Chinese."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter

# First words of Unicode character names -> ISO 15924.
_NAMES = {
    "LATIN": "Latn",
    "FULLWIDTH": "Latn",
    "CYRILLIC": "Cyrl",
    "GREEK": "Grek",
    "ARABIC": "Arab",
    "HEBREW": "Hebr",
    "DEVANAGARI": "Deva",
    "BENGALI": "Beng",
    "GUJARATI": "Gujr",
    "GURMUKHI": "Guru",
    "TAMIL": "Taml",
    "TELUGU": "Telu",
    "KANNADA": "Knda",
    "MALAYALAM": "Mlym",
    "SINHALA": "Sinh",
    "ORIYA": "Orya",
    "THAI": "Thai",
    "LAO": "Laoo",
    "KHMER": "Khmr",
    "MYANMAR": "Mymr",
    "TIBETAN": "Tibt",
    "GEORGIAN": "Geor",
    "ARMENIAN": "Armn",
    "ETHIOPIC": "Ethi",
    "THAANA": "Thaa",
    "HANGUL": "Hang",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana",
    "HALFWIDTH": "Kana",
    "CJK": "Hani",
    "MONGOLIAN": "Mong",
    "CHEROKEE": "Cher",
    "TIFINAGH": "Tfng",
    "NKO": "Nkoo",
}
OTHER = "Zzzz"

# Scripts of a language whose tag names none; the others are written in Latin letters.
_DEFAULTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ar", "fa", "ur", "ps", "sd", "ug", "ckb"), ("Arab",)),
    **dict.fromkeys(("ru", "uk", "be", "bg", "mk", "kk", "ky", "mn", "tg", "tt", "ba", "cv"), ("Cyrl",)),
    **dict.fromkeys(("hi", "mr", "ne", "sa", "bho", "mai"), ("Deva",)),
    **dict.fromkeys(("am", "ti"), ("Ethi",)),
    **dict.fromkeys(("he", "yi"), ("Hebr",)),
    **dict.fromkeys(("bn", "as"), ("Beng",)),
    "sr": ("Cyrl", "Latn"),
    "uz": ("Latn", "Cyrl"),
    "el": ("Grek",),
    "gu": ("Gujr",),
    "pa": ("Guru",),
    "ta": ("Taml",),
    "te": ("Telu",),
    "kn": ("Knda",),
    "ml": ("Mlym",),
    "si": ("Sinh",),
    "or": ("Orya",),
    "th": ("Thai",),
    "lo": ("Laoo",),
    "km": ("Khmr",),
    "my": ("Mymr",),
    "bo": ("Tibt",),
    "dz": ("Tibt",),
    "ka": ("Geor",),
    "hy": ("Armn",),
    "dv": ("Thaa",),
    "ko": ("Hang", "Hani"),
    "ja": ("Kana", "Hani"),
    "zh": ("Hani",),
    "yue": ("Hani",),
}
_SUBTAGS = {"Hans": ("Hani",), "Hant": ("Hani",), "Jpan": ("Kana", "Hani"), "Kore": ("Hang", "Hani")}

# Letters that a text needs before it is decided, as a share of ``gates.language_min_chars``: one sign says more.
_NEEDED = {"Hani": 0.25, "Kana": 0.4, "Hang": 0.4, "Thai": 0.75, "Laoo": 0.75, "Khmr": 0.75, "Mymr": 0.75, "Ethi": 0.5}

# Frequent characters that only one of the two writing systems has, in the same order.
_SIMPLIFIED = (
    "们这个来时说国会为学对发经现动还过无开进种样后从问题关间长见电话车书东马鱼鸟门风飞习听读写语议认识让请谁课谢"
    "难钱银铁锁镇应该业务产农华卖买军义乐与专丰临丽举乌乔乡亚亲仅传伤伦伟侧儿党兰兴养军农冲决况净减几击创别办劳"
    "势单卫厂厅历压厌县参双变叶号叹员园围图圆圣场坏块坚坛坏处备复够头夹夺奋奖妇妈孙实宝审宽对寻导寿将尔尝尽层属岁岛"
)
_TRADITIONAL = (
    "們這個來時說國會為學對發經現動還過無開進種樣後從問題關間長見電話車書東馬魚鳥門風飛習聽讀寫語議認識讓請誰課謝"
    "難錢銀鐵鎖鎮應該業務產農華賣買軍義樂與專豐臨麗舉烏喬鄉亞親僅傳傷倫偉側兒黨蘭興養軍農衝決況淨減幾擊創別辦勞"
    "勢單衛廠廳歷壓厭縣參雙變葉號嘆員園圍圖圓聖場壞塊堅壇壞處備復夠頭夾奪奮獎婦媽孫實寶審寬對尋導壽將爾嘗盡層屬歲島"
)
_ONLY_SIMPLIFIED = frozenset(_SIMPLIFIED) - frozenset(_TRADITIONAL)
_ONLY_TRADITIONAL = frozenset(_TRADITIONAL) - frozenset(_SIMPLIFIED)


@functools.lru_cache(maxsize=1 << 16)
def script_of(letter: str) -> str:
    """ISO 15924 code of a letter's script; ``Zzzz`` for one that is not in the table."""
    words = unicodedata.name(letter, "?").split(" ", 2)
    if words[0] in ("HALFWIDTH", "FULLWIDTH") and len(words) > 1:
        return _NAMES.get(words[1], OTHER)
    return _NAMES.get(words[0], OTHER)


class _Marks(dict[int, str]):
    """Code point -> a sign for its script, a space for what is no letter; filled as characters are met."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        self[point] = _MARK_OF[script_of(char)] if char.isalpha() else " "
        return self[point]


_MARK_OF = {script: chr(ord("!") + place) for place, script in enumerate(sorted({*_NAMES.values(), OTHER}))}
_SCRIPT_OF = {mark: script for script, mark in _MARK_OF.items()}
_MARKS = _Marks()


def script_counts(text: str) -> Counter[str]:
    """Letters of a text by script."""
    marks = text.translate(_MARKS)  # letter by letter it would take several times as long
    return Counter({_SCRIPT_OF[mark]: marks.count(mark) for mark in set(marks) if mark != " "})


def base_of(code: str) -> str:
    """Primary language subtag, lower case."""
    return code.split("-", 1)[0].lower()


def variant_of(code: str) -> str | None:
    """Script subtag of a BCP-47 tag ("Latn", "Hant"); None without one. Regions of Chinese imply one."""
    parts = code.split("-")[1:]
    for part in parts:
        if len(part) == 4 and part.isalpha():
            return part.title()
    if base_of(code) in ("zh", "cmn", "yue") and any(part.upper() in ("TW", "HK", "MO") for part in parts):
        return "Hant"
    return None


@functools.cache
def scripts_of(code: str) -> tuple[str, ...]:
    """Scripts that a language is written in; its tag's own where it names one."""
    variant = variant_of(code)
    if variant is not None:
        return _SUBTAGS.get(variant, (variant,))
    return _DEFAULTS.get(base_of(code), ("Latn",))


def letters_needed(script: str, minimum: int) -> int:
    """Letters of a script that are as telling as ``minimum`` letters of an alphabet."""
    return max(1, round(minimum * _NEEDED.get(script, 1.0))) if minimum else 0


def chinese_variant(text: str) -> str | None:
    """Hans or Hant, by characters that only one of them has; None where it has none or as many of both."""
    simplified = sum(char in _ONLY_SIMPLIFIED for char in text)
    traditional = sum(char in _ONLY_TRADITIONAL for char in text)
    if simplified == traditional:
        return None
    return "Hans" if simplified > traditional else "Hant"
