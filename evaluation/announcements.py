"""Where a solution announces its answer: "The answer is", "## Endergebnis", "答案－", in fourteen languages.

Models announce in English inside other languages, and in one language inside another, so all are tried in every text.
An announcement is what an answer is called and then a sign, a verb, the end of the line, or the number itself; a noun
in the middle of a sentence ("answer the question") announces nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# By language: what an answer is called, with what may stand between it and the sign; and the verbs that follow it.
_CALLED: tuple[tuple[str, str], ...] = (
    (r"(?:final |correct |right )?answer|final (?:result|solution)", r"is|would be|equals|comes to|=="),
    (
        r"(?:end(?:gültige|ergebnis)|richtige|finale|korrekte)?\s*(?:Antwort|Lösung|Endlösung|Ergebnis|Endergebnis)",
        r"ist|lautet|beträgt|wäre",
    ),
    (r"(?:respuesta|resultado|solución)(?:\s+(?:final|correct[ao]))?", r"es|será|sería"),
    (r"(?:bonne |juste )?(?:réponse|résultat|solution)(?:\s+(?:final|finale|correcte))?", r"est|serait"),
    (r"(?:risposta|risultato|soluzione)(?:\s+(?:finale|corretta))?", r"è"),
    (r"(?:resposta|resultado|solução)(?:\s+(?:final|correta))?", r"é"),
    (
        r"(?:итоговый\s+|окончательный\s+|правильный\s+)?ответ(?:ом)?",
        r"равен|равняется|составляет|является|будет|таков|это",
    ),
    (r"jibu(?:\s+(?:la mwisho|sahihi|kamili))?", r"ni|litakuwa"),
    (
        r"(?:最终|最終|正确|正確)?(?:答案|答复)|答|(?:最終的?な?)?(?:答え|回答|解答|正解)",
        r"就是|应该是|應該是|等于|等於|是|为|為|は|が",
    ),
    (r"(?:최종\s?)?(?:정답|답변|답)", r"은|는|이"),
    (r"คำตอบ(?:สุดท้าย)?(?:ที่ถูกต้อง)?|ตอบ", r"คือ|เท่ากับ|เป็น|ว่า"),
    (r"(?:চূড়ান্ত|সঠিক)?\s*উত্তর(?:টি)?", r"হল|হলো|হচ্ছে|হবে|ঃ"),
    (r"(?:చివరి|సరైన)?\s*(?:సమాధానం|జవాబు)", r"అవుతుంది"),
    (r"(?:الجواب|الإجابة|الاجابة)(?:\s+(?:النهائية|النهائي|الصحيحة|الصحيح))?", r"هو|هي"),
    (r"(?:अंतिम|सही)?\s*उत्तर", r"है"),
)
_DASH = "-–—―－ー"
_MARKUP = r"[*_`~\"'”’」』】\])>]"
_CURRENCY = r"(?:[$¢£¤¥֏৲৳฿\u20a0-\u20cf]|\\\$|\\\(|Rs|KSh|TSh|Sh|Tk|US\$)"
_BEFORE_NUMBER = rf"(?=\s{{0,3}}(?:{_MARKUP}\s?)*[-+−({{\[（]?\s?{_CURRENCY}?[.\s]{{0,2}}\d|\s*\$*\\boxed)"


def _one(noun: str, verbs: str) -> str:
    """The pattern of a language: the noun, then what makes an announcement of it."""
    # A verb of letters must end there ("is", not "issue"); scripts without spaces end nowhere.
    verb = rf"\s*(?:{verbs})(?![A-Za-zÀ-ɏ\u0400-\u052f])"
    signs = rf"\s*(?:[:=]|[{_DASH}]+(?![A-Za-zÀ-ɏ]))"
    heading = rf"(?:[\s:=*_]|{_MARKUP})*$"
    return rf"(?<![^\W\d_])(?:{noun})(?:{_MARKUP}|\s(?={_MARKUP}))*(?:{verb}|{signs}|{heading}|{_BEFORE_NUMBER})"


_LETTERS = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _bounded(noun: str, verbs: str) -> str:
    pattern = _one(noun, verbs)
    return pattern.removeprefix(r"(?<![^\W\d_])") if _LETTERS.search(noun) else pattern


_ANNOUNCED = re.compile("|".join(f"(?:{_bounded(*called)})" for called in _CALLED), re.IGNORECASE | re.MULTILINE)
# What may stand between an announcement and its number without being part of either.
_LEADING = re.compile(
    rf"(?:\s|[:=*_#>~`\"'“”‘’「」『』【】]|\\[\[(]|\$(?=\$)|[{_DASH}=_]{{2,}}|(?:^|(?<=\n))[-–—•·▪◦*+∙●]\s+)*",
    re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s|$)|(?<=\d)[.!?](?=\s+\D|\s*$)|[。！？।؟\n]")


def announced(text: str) -> Iterator[str]:
    """What follows each announcement of a normalised text, to the end of its sentence; the last one first."""
    for found in reversed(list(_ANNOUNCED.finditer(text))):
        rest = text[found.end() :]
        rest = rest[_leading(rest) :]
        end = next((m.start() for m in _SENTENCE_END.finditer(rest) if m.start() > 0), len(rest))
        yield rest[:end]


def _leading(rest: str) -> int:
    found = _LEADING.match(rest)
    return found.end() if found else 0
