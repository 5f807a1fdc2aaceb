"""Can a reward made of log-probabilities tell an answer to this prompt from one to another, in each language?

    python -m benchmarks.real.premise [--short]     # reads what make real answered; writes docs/real-premise.md

ICR's reward needs a policy that was aligned on English preferences, and its start. Such a policy is made here by the
product's own offline DPO, on pairs that can be made honestly: the model's own full answers to the English training
prompts, against the same answers cut short or with their words in random order. Then rewards are compared on the
start's greedy held-out answers that are in the language asked for: the answer to a prompt against that to the next one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real.kept import Likelihood
from benchmarks.real.measurement import DTYPE, HERE, Measurement, of_command_line, on_one_thread, rows_of
from evaluation.stats import wilson
from rollout.language import LanguageDetector
from rollout.languages import language_name
from rollout.templates import crosslingual_instruction, language_instruction

MOST = 40  # pairs a language: the interval is then at most 31 points wide
LEAST_WORDS = 12  # of an answer that is cut: a shorter one may be whole when it is cut

REWARDS: dict[str, str] = {
    "native": "likelihood, native prompt (a token)",
    "english": "likelihood, English instruction",
    "native-unconditional": "native, less unconditional",
    "english-unconditional": "English instruction, less unconditional",
    "english-native": "English instruction, less native",
    "rc": "R_c: aligned less start, English instruction",
    "rm": "R_m: aligned less start, native prompt",
}


def preferences(prompts: Mapping[str, str], answers: Mapping[str, str]) -> list[dict[str, str]]:
    """Pairs of an answer against itself made worse: cut to its first third, or with its words in random order.

    Args:
        prompts: id -> English prompt.
        answers: id -> the model's own answer.
    """
    made = []
    for place, key in enumerate(sorted(prompts)):
        words = answers[key].split()
        if len(words) < LEAST_WORDS:
            continue
        worse = words[: len(words) // 3]
        if place % 2:
            worse = random.Random(key).sample(words, len(words))
        made.append({"id": key, "prompt": prompts[key], "chosen": answers[key], "rejected": " ".join(worse)})
    return made


def rewards(
    models: tuple[Likelihood, Likelihood],
    code: str,
    native: Sequence[str],
    english: Sequence[str],
    texts: Sequence[str],
) -> dict[str, list[float]]:
    """Every reward of ``texts`` as answers to the prompts.

    Args:
        models: The start, and what English preference training made of it.
        code: Language of the answers.
        native: The prompts in it.
        english: The same in English.
        texts: One a prompt.
    """
    start, aligned = models
    name = language_name(code, {})
    crossed = list(english) if code == "en" else [crosslingual_instruction(text, name) for text in english]
    unasked = [language_instruction(name)] * len(texts)
    own, cross = start.sums(native, texts), start.sums(crossed, texts)
    nothing = start.per_token(unasked, texts)
    aligned_own, aligned_cross = aligned.sums(native, texts), aligned.sums(crossed, texts)
    token_own = [total / tokens for total, tokens in own]
    token_cross = [total / tokens for total, tokens in cross]
    return {
        "native": token_own,
        "english": token_cross,
        "native-unconditional": _less(token_own, nothing),
        "english-unconditional": _less(token_cross, nothing),
        "english-native": _less(token_cross, token_own),
        "rc": _less([total for total, _ in aligned_cross], [total for total, _ in cross]),
        "rm": _less([total for total, _ in aligned_own], [total for total, _ in own]),
    }


def _less(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(first, second, strict=True)]


def accuracies(measurement: Measurement, aligned: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Language -> reward -> (pairs ranked rightly, pairs)."""
    settings = measurement.settings
    detector = LanguageDetector(settings.languages)
    prompts, texts = measurement.heldout_prompts(), measurement.texts("start")
    models = Likelihood(measurement.model, DTYPE), Likelihood(aligned, DTYPE)
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for code in settings.languages:
        ids = [key for of, key in prompts if of == code]
        ids = [key for key in ids if detector.judge(texts[code, key], code).outcome == "right"][:MOST]
        if len(ids) < 2:
            continue
        native, english = [prompts[code, key] for key in ids], [prompts["en", key] for key in ids]
        own = [texts[code, key] for key in ids]
        other = own[1:] + own[:1]
        good = rewards(models, code, native, english, own)
        bad = rewards(models, code, native, english, other)
        found[code] = {
            name: (sum(a > b for a, b in zip(good[name], bad[name], strict=True)), len(ids)) for name in REWARDS
        }
        print(f"{code}: {len(ids)} pairs", flush=True)
    return found


def page(found: Mapping[str, Mapping[str, Sequence[int]]], facts: Sequence[str]) -> str:
    """The page, Markdown."""
    head = (__doc__ or "").split("\n\n")[-1].replace("``", "`").strip()
    lines = [
        "# What rewards of log-probabilities can tell on real text",
        "",
        "Written by `python -m benchmarks.real.premise`.",
    ]
    lines += [head, ""] + [f"- {fact}" for fact in facts] + [""]
    lines += [
        "Per cent of pairs ranked rightly, with 95 % intervals (Wilson); 50 is chance. The answers are the start's own "
        "under the native prompt, so the first row is near its ceiling by construction, and the others are not.",
        "",
    ]
    heads = [f"{code} ({rows['native'][1]})" for code, rows in found.items()]
    lines += [f"| | {' | '.join(heads)} |"]
    lines += ["|---|" + "---|" * len(found)]
    for name, title in REWARDS.items():
        cells = []
        for rows in found.values():
            right, count = rows[name]
            low, high = wilson(right, count)
            cells.append(f"{100 * right / count:.0f} [{100 * low:.0f}, {100 * high:.0f}]")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measurement, given = of_command_line(parser)
    fact = measurement.prepare()
    measurement.answer("start")
    folder = measurement.folder / "premise"
    folder.mkdir(exist_ok=True)
    if not (folder / "english" / "result.json").exists():
        words = ["--suite", "custom", "--data", str(measurement.prompts("train")), "--out", str(folder / "english")]
        words += ["--cache", str(measurement.folder / "cache"), "--max-new-tokens", "200"]
        words += ["--dtype", DTYPE, "--languages", "en"]
        on_one_thread("eval", str(measurement.model), *words)
    prompts = {row["id"]: row["prompt"] for row in rows_of(measurement.prompts("train") / "en.jsonl")}
    answers = {row["id"]: row["answer"] for row in rows_of(folder / "english" / "answers.jsonl")}
    pairs = preferences(prompts, answers)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    if not (folder / "aligned" / "summary.json").exists():
        changed = [f"run.dir={folder}", f"model.policy={measurement.model}", f"model.dtype={DTYPE}"]
        changed += [f"offline.path={folder / 'pairs.jsonl'}"]
        on_one_thread("train", str(HERE / "align.yaml"), *changed, "--resume-or-start")
    note = folder / "accuracies.json"
    if not note.exists():
        note.write_text(json.dumps(accuracies(measurement, folder / "aligned" / "policy")) + "\n", encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(note.read_text(encoding="utf-8"))
    facts = [*measurement.facts(), fact, f"English preference pairs: {len(pairs)}"]
    out = given.page or (folder / "premise.md" if given.short else Path("docs/real-premise.md"))
    out.write_text(page(found, facts), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
