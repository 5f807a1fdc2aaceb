"""Solutions of grade-school maths as models write them: ten languages, native digits and separators, currencies,
calculations in brackets, dashes, boxes and line breaks; each with the number that it gives.

``python -m tests.kits.mgsm [COUNT] [SEED]`` prints the share that ``extract_answer`` reads right, by form and language.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Tongue:
    """How one language announces, groups, pays and counts.

    Attributes:
        sentences: That end before the number: "The answer is".
        nouns: That need a sign after them: "Answer".
        after: What ends a sentence with the number ("です").
        groups: Signs between thousands.
        point: The decimal sign.
        before: Currencies before the number.
        behind: Currencies and units behind it.
        large: Compounds of counting words: (text, value).
        step: A line of reasoning with numbers in it.
        bracket: A calculation for a bracket.
        digits: Native ones, or "".
        stop: Full stop.
    """

    sentences: tuple[str, ...]
    nouns: tuple[str, ...]
    groups: tuple[str, ...]
    point: str
    before: tuple[str, ...]
    behind: tuple[str, ...]
    large: tuple[tuple[str, int], ...]
    step: str
    bracket: str
    after: str = ""
    digits: str = ""
    stop: str = "."


TONGUES = {
    "en": Tongue(
        ("The answer is", "The final answer is", "So the answer is", "Therefore, the correct answer is"),
        ("Answer", "Final Answer", "The answer", "Final answer"),
        (",", " ", "\u202f"), ".", ("$", "US$", "£", "€"), (" dollars", " eggs", " USD", "%"),
        (("2 million 500 thousand", 2_500_000), ("3 lakh 40 thousand", 340_000), ("1 crore 20 lakh", 12_000_000),
         ("70 thousand", 70_000), ("2 thousand 500", 2_500), ("1.5 million", 1_500_000)),
        "She has {a} eggs and eats {b}, so {c} are left.", "{a} - {b} = {c} eggs at $2",
    ),
    "de": Tongue(
        ("Die Antwort ist", "Die Antwort lautet", "Die richtige Antwort ist", "Die endgültige Antwort lautet",
         "Das Ergebnis ist"),
        ("Antwort", "Endergebnis", "Lösung", "Endgültige Antwort", "Ergebnis"),
        (".", " ", "\u00a0", "'"), ",", ("€", "$"), (" €", " Euro", " Eier", " Dollar"),
        (("2 Millionen 500 Tausend", 2_500_000), ("2 Millionen und 500 Tausend", 2_500_000), ("70 Tausend", 70_000),
         ("1,5 Millionen", 1_500_000)),
        "Sie hat {a} Eier und isst {b}, also bleiben {c}.", "{a} - {b} = {c} Eier zu je 2 €",
    ),
    "es": Tongue(
        ("La respuesta es", "La respuesta final es", "La respuesta correcta es", "El resultado es",
         "Por lo tanto, la respuesta es"),
        ("Respuesta", "Respuesta final", "Solución", "Resultado"),
        (".", " ", ",", "\u202f"), ",", ("$", "€"), (" €", " dólares", " huevos", " euros"),
        (("2 millones 500 mil", 2_500_000), ("70 mil", 70_000), ("1,5 millones", 1_500_000)),
        "Tiene {a} huevos y come {b}, así que quedan {c}.", "{a} - {b} = {c} huevos a 2 $",
    ),
    "fr": Tongue(
        ("La réponse est", "La réponse finale est", "La bonne réponse est", "Le résultat est", "Donc la réponse est"),
        ("Réponse", "Réponse finale", "Résultat", "Solution"),
        (" ", "\u202f", "\u00a0", "."), ",", ("$",), (" €", " euros", " œufs", " $"),
        (("2 millions 500 mille", 2_500_000), ("70 mille", 70_000), ("1,5 million", 1_500_000)),
        "Elle a {a} œufs et en mange {b}, il en reste {c}.", "{a} - {b} = {c} œufs à 2 €",
    ),
    "ru": Tongue(
        ("Ответ равен", "Правильный ответ:", "Итоговый ответ:", "Итак, ответ:", "Окончательный ответ —"),
        ("Ответ", "Итоговый ответ", "Правильный ответ", "Окончательный ответ"),
        (" ", "\u00a0", "\u202f"), ",", ("$", "₽"), (" ₽", " рублей", " яиц", " долларов"),
        (("2 миллиона 500 тысяч", 2_500_000), ("70 тысяч", 70_000), ("2 млн 500 тыс", 2_500_000), ("70 тыс.", 70_000)),
        "У неё {a} яиц, она ест {b}, остаётся {c}.", "{a} - {b} = {c} яиц по 2 $",
    ),
    "sw": Tongue(
        ("Jibu ni", "Jibu la mwisho ni", "Jibu sahihi ni", "Kwa hivyo jibu ni"),
        ("Jibu", "Jibu la mwisho", "Jibu sahihi"),
        (",", " "), ".", ("$", "KSh ", "TSh ", "Sh. "), (" dola", " mayai", " shilingi"),
        (("milioni 2 na elfu 500", 2_500_000), ("elfu 70", 70_000), ("laki 3", 300_000), ("milioni 2", 2_000_000)),
        "Ana mayai {a} na anakula {b}, kwa hivyo yanabaki {c}.", "{a} - {b} = mayai {c} kwa $2",
    ),
    "bn": Tongue(
        ("উত্তর হল", "উত্তর হলো", "সঠিক উত্তর হল", "চূড়ান্ত উত্তর হলো", "উত্তরটি হল"),
        ("উত্তর", "চূড়ান্ত উত্তর", "সঠিক উত্তর"),
        (",", " "), ".", ("৳", "$", "Tk "), (" টাকা", "টি ডিম", " ডলার"),
        (("২ লাখ ৫০ হাজার", 250_000), ("১ কোটি ২০ লক্ষ", 12_000_000), ("70 হাজার", 70_000), ("৩ লক্ষ", 300_000)),
        "তার {a}টি ডিম আছে, সে {b}টি খায়, {c}টি থাকে।", "{a} - {b} = {c}টি ডিম, প্রতিটি ২ ডলার",
        digits="০১২৩৪৫৬৭৮৯", stop="।",
    ),
    "th": Tongue(
        ("คำตอบคือ", "คำตอบสุดท้ายคือ", "ดังนั้นคำตอบคือ", "คำตอบที่ถูกต้องคือ"),
        ("คำตอบ", "คำตอบสุดท้าย", "ตอบ"),
        (",", " "), ".", ("฿", "$"), (" บาท", " ฟอง", " ดอลลาร์"),
        (("2 ล้าน 5 แสน", 2_500_000), ("7 หมื่น", 70_000), ("2 ล้าน", 2_000_000), ("3 แสน 4 หมื่น", 340_000)),
        "เธอมีไข่ {a} ฟอง กิน {b} ฟอง เหลือ {c} ฟอง", "{a} - {b} = {c} ฟอง ฟองละ 2 บาท",
        digits="๐๑๒๓๔๕๖๗๘๙", stop="",
    ),
    "ja": Tongue(
        ("答えは", "最終的な答えは", "したがって、答えは", "正解は"),
        ("答え", "最終的な答え", "回答", "解答", "最終回答"),
        (",", "，", " "), ".", ("¥", "$", "￥"), ("ドル", "円", "個"),
        (("250万", 2_500_000), ("7万", 70_000), ("11万4200", 114_200), ("1億2000万", 120_000_000),
         ("2百万", 2_000_000)),
        "卵は{a}個あり、{b}個食べるので、{c}個残ります。", "{a} - {b} = {c}個、1個2ドル",
        after="です", digits="０１２３４５６７８９", stop="。",
    ),
    "zh": Tongue(
        ("答案是", "最终答案是", "所以答案是", "因此，正确答案是", "答案为"),
        ("答案", "最终答案", "答", "最終答案", "正确答案"),
        (",", "，", " "), ".", ("¥", "$", "￥"), ("美元", "元", "个鸡蛋"),
        (("250万", 2_500_000), ("7万", 70_000), ("1亿2000万", 120_000_000), ("2千5百", 2_500), ("2百万", 2_000_000)),
        "她有{a}个鸡蛋，吃了{b}个，还剩{c}个。", "{a} - {b} = {c}个鸡蛋，每个2美元",
        digits="０１２３４５６７８９", stop="。",
    ),
}  # fmt: skip

DASHES = (" - ", " – ", " — ", "-", " -", "－", " － ", "–", "—", ": - ")
HEADS = ("## {}\n", "### {}\n\n", "**{}**\n", "{}:\n", "**{}:**\n\n", "{}\n\n", "# {}:\n", "{}：\n")
SIGNS = (": ", ":", "：", " = ", ":** ", "**: ", " : ", ": **")
BULLETS = ("- ", "* ", "• ", "– ", "+ ", "· ")
BOXES = (
    r"\boxed{@}", r"$\boxed{@}$", r"\boxed{@\text{ m}^2}", r"\boxed{@ \text{ cm}^{3}}", r"\[\boxed{@}\]",
    r"\boxed{\text{@}}",
    r"\boxed{x = @}", r"\boxed{@\,\text{km/h}}", r"\boxed{\$@}", r"\boxed{\mathbf{@}}",
)  # fmt: skip
FORMS = (
    "sentence", "colon", "dash", "dash bullet", "heading", "bracket", "bracket colon", "reason after", "currency",
    "unit",
    "calculation", "separators", "counting words", "native digits", "box", "negative", "decimal",
)  # fmt: skip


@dataclass(frozen=True)
class Rendering:
    """A solution in one form, and the number that it gives."""

    form: str
    language: str
    text: str
    value: Fraction


def renderings(count: int, seed: int = 0) -> Iterator[Rendering]:
    """``count`` of each form in each language."""
    for language, tongue in TONGUES.items():
        for form in FORMS:
            rng = random.Random(f"{seed}/{language}/{form}")
            for _ in range(count):
                yield _rendering(form, language, tongue, rng)


def _rendering(form: str, language: str, tongue: Tongue, rng: random.Random) -> Rendering:
    a, b = rng.randrange(11, 90), rng.randrange(2, 10)
    calculation = {"a": a, "b": b, "c": a - b}
    value = Fraction(rng.choice([rng.randrange(1, 1000), rng.randrange(100, 1000)]))
    number = str(value)
    sentence, noun = rng.choice(tongue.sentences), rng.choice(tongue.nouns)
    gap = "" if language in ("ja", "zh") and rng.random() < 0.7 else " "
    end = f"{tongue.after}{tongue.stop}" if rng.random() < 0.8 else ""
    opens, closes = rng.choice([("(", ")"), ("（", "）")]) if language in ("ja", "zh") else ("(", ")")
    bracket = f" {opens}{tongue.bracket.format(**calculation)}{closes}"
    if form == "sentence":
        said = f"{sentence}{gap}{number}{end}"
    elif form == "colon":
        sign = rng.choice(SIGNS)
        said = ("**" if sign.count("**") and sign != ": **" else "") + noun + sign + number
        said += "**" if sign == ": **" else rng.choice(["", tongue.stop])
    elif form == "dash":
        said = f"{noun}{rng.choice(DASHES)}{number}{rng.choice(['', tongue.stop])}"
    elif form == "dash bullet":
        said = f"{rng.choice([f'{noun}:', f'**{noun}**', f'## {noun}'])}\n\n{rng.choice(BULLETS)}{number}"
    elif form == "heading":
        said = rng.choice(HEADS).format(noun) + number
    elif form == "bracket":
        said = f"{sentence}{gap}{number}{bracket}{tongue.stop}"
    elif form == "bracket colon":
        said = f"{noun}: {number}{rng.choice(tongue.behind)}{bracket}"
    elif form == "reason after":
        comma = "，" if language == "zh" else "、" if language == "ja" else ", "
        said = f"{sentence}{gap}{number}{comma}{a} - {b} = {a - b}{tongue.stop}"
    elif form == "currency":
        said = rng.choice([f"{sentence}{gap or ' '}", f"{noun}: ", f"{noun}\n"]) + rng.choice(tongue.before) + number
    elif form == "unit":
        said = (
            rng.choice([f"{sentence}{gap}", f"{noun}: ", f"{noun}\n"])
            + number
            + rng.choice(tongue.behind)
            + tongue.stop
        )
    elif form == "calculation":
        said = f"{rng.choice([sentence + gap, noun + ': '])}{a} + {b} = {a + b}{rng.choice(['', *tongue.behind])}"
        value = Fraction(a + b)
    elif form == "separators":
        value = Fraction(
            rng.choice([rng.randrange(1000, 10**6), rng.randrange(10, 1000) * 1000, rng.randrange(10**6, 10**7)])
        )
        number = f"{int(value):,}".replace(",", rng.choice(tongue.groups))
        if language == "bn" and rng.random() < 0.3:
            value, number = Fraction(114_200), "1,14,200"
        said = rng.choice([f"{sentence}{gap}", f"{noun}: ", f"## {noun}\n"]) + _native(number, tongue, rng) + end
    elif form == "counting words":
        number, large = rng.choice(tongue.large)
        value = Fraction(large)
        said = (
            rng.choice([f"{sentence}{gap}", f"{noun}: "]) + _native(number, tongue, rng) + rng.choice(["", tongue.stop])
        )
    elif form == "native digits":
        native = number.translate(str.maketrans("0123456789", tongue.digits)) if tongue.digits else number
        lead = rng.choice([sentence + gap, f"{noun}: ", f"{noun} - ", f"{noun}\n"])
        said = f"{lead}{native}{rng.choice(['', tongue.stop])}"
    elif form == "box":
        box = rng.choice(BOXES).replace("@", number)
        said = f"{rng.choice([sentence + gap, noun + ': ', ''])}{box}{rng.choice(['', tongue.stop])}"
    elif form == "negative":
        value = -value
        minus = rng.choice("-−")
        told = f"{sentence}{gap or ' '}{minus}{number}"
        said = rng.choice([told, f"{noun}: {minus}{number}", f"{noun}: {b} - {number} - {b} = {minus}{number}"])
    else:
        value = Fraction(rng.randrange(1, 1000), 100) + rng.randrange(1, 50)
        number = f"{float(value):.2f}".replace(".", tongue.point)
        said = f"{rng.choice([sentence + gap, noun + ': '])}{_native(number, tongue, rng)}{end}"
    steps = "\n".join(tongue.step.format(**calculation) for _ in range(rng.randrange(1, 3)))
    return Rendering(
        form, language, f"{steps}{rng.choice([chr(10), chr(10) * 2])}{said}{rng.choice(['', chr(10)])}", value
    )


def _native(number: str, tongue: Tongue, rng: random.Random) -> str:
    if not tongue.digits or rng.random() < 0.5:
        return number
    return number.translate(str.maketrans("0123456789", tongue.digits))


def shares(count: int, seed: int) -> tuple[dict[str, float], dict[str, float], list[Rendering]]:
    """(share read right by form, by language, those that were not)."""
    from evaluation.mgsm import extract_answer

    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong = []
    for made in renderings(count, seed):
        good = extract_answer(made.text, made.language).value == made.value
        for key in (made.form, made.language):
            total[key] += 1
            right[key] += good
        if not good:
            wrong.append(made)
    share = {key: right[key] / total[key] for key in total}
    return {form: share[form] for form in FORMS}, {code: share[code] for code in TONGUES}, wrong


if __name__ == "__main__":
    count, seed = (
        (int(text) for text in [*sys.argv[1:], "100", "0"][:2]) if len(sys.argv) != 2 else (int(sys.argv[1]), 0)
    )
    by_form, by_language, wrong = shares(count, seed)
    for key, share in (by_form | by_language).items():
        print(f"{key:16} {100 * share:6.2f} %")
    print(
        f"all              {100 * sum(by_form.values()) / len(by_form):6.2f} % of {count * len(FORMS) * len(TONGUES):,}"
    )
    for made in random.Random(1).sample(wrong, min(25, len(wrong))):
        print(made.form, made.language, made.value, repr(made.text[-110:]))
