"""The page of a measurement: what was asked of whom, the figures with their intervals, and which goals were met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.real.kept import Kept
from benchmarks.real.measures import MEASURES, System, difference, halved, told, values
from evaluation.stats import Delta

NAMES = {"start": "before", "terms": "after", "shuffled": "control: shuffled rewards"}
SHOWN = 10  # answers a language that a reader gets to see
_SHARES = ("other", "right", "undecided", "english", "wholly")  # of the measures: in which language


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        facts: Lines on model, prompts, machine and time.
        languages: All.
        goal: Those that the goals are set for.
        systems: "start", and those of the runs that are there.
        kept: Run -> whether English was kept.
        ids: Held-out prompts, in the order of the measured answers.
        words: System -> language -> the words of two letters or more of all its answers, in that order.
    """

    facts: Sequence[str]
    languages: Sequence[str]
    goal: Sequence[str]
    systems: Mapping[str, System]
    kept: Mapping[str, Kept]
    ids: Sequence[str]
    words: Mapping[str, Mapping[str, Sequence[str]]]


def page(head: str, found: Found) -> str:
    """The whole page, Markdown."""
    runs = [name for name in found.systems if name != "start"]
    lines = [head.rstrip(), "", *(f"- {fact}" for fact in found.facts), ""]
    lines += ["## Goals", "", *_goals(found), ""]
    lines += ["## Share of answers by language", ""]
    for name in _SHARES:
        lines += _table(found, name, runs)
    lines += ["## Lines, words, length, repetition and echo", ""]
    for name in MEASURES:
        if name not in _SHARES:
            lines += _table(found, name, runs)
    lines += ["## Vocabulary", "", *_vocabulary(found), ""]
    lines += ["## English kept", ""]
    lines.append(
        "Greedy English answers after training against those before: share that is equal, and share of prompts whose "
        "answer after is likelier a token under the *start's* weights (a tie is half). The start's greedy answer is "
        "near the likeliest it has, so under 50 % is to be expected."
    )
    lines += ["", "| | equal answers, % | after wins, % |", "|---|---|---|"]
    lines += [f"| {NAMES[n]} | {100 * k.identical:.1f} | {100 * k.win_rate:.1f} |" for n, k in found.kept.items()]
    return "\n".join(lines) + "\n"


def _table(found: Found, name: str, runs: Sequence[str]) -> list[str]:
    heading, _, percent = MEASURES[name]
    start = found.systems["start"]
    heads = ["before"]
    for run in runs:
        heads += [NAMES[run], "change [95 %]"]
    both = len(runs) == 2
    heads += ["after less control [95 %]"] if both else []
    lines = [f"**{heading[0].upper()}{heading[1:]}**", "", f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    goal = told(start, found.goal, name)
    groups = [(code, [code]) for code in told(start, found.languages, name)] + [(f"mean of {', '.join(goal)}", goal)]
    for title, codes in groups:
        cells = [_value(float(values(start, codes, name).mean()), percent)]
        for run in runs:
            delta = difference(start, found.systems[run], codes, name)
            cells += [_value(delta.end, percent), _delta(delta, percent)]
        if both:
            cells.append(_delta(difference(found.systems[runs[1]], found.systems[runs[0]], codes, name), percent))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return [*lines, ""]


def _vocabulary(found: Found) -> list[str]:
    """What no answer shows by itself: that all of them have the same few words."""
    names = list(found.systems)
    lines = [
        "Different words among the first of all answers' words, as many as the system with the fewest has, and the "
        "most frequent word with its share of all. No goal: first looked at when the fifth recipe's answers were read.",
        "",
        f"| | words | {' | '.join(f'{NAMES[name]}: different' for name in names)} | "
        f"{' | '.join(f'{NAMES[name]}: most frequent' for name in names)} |",
        "|---|---|" + "---|" * (2 * len(names)),
    ]
    for code in found.languages:
        of = [found.words[name][code] for name in names]
        size = min(map(len, of))
        cells = [str(len(set(words[:size]))) for words in of]
        for words in of:
            most = Counter(words).most_common(1)
            cells += [f"{word} {100 * count / len(words):.1f} %" for word, count in most] or ["none"]
        lines.append(f"| {code} | {size} | {' | '.join(cells)} |")
    return lines


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}" if percent else f"{value:.0f}"


def _delta(delta: Delta, percent: bool) -> str:
    scale, form = (100, "+.1f") if percent else (1, "+.0f")
    low, high = delta.ci95
    return f"{scale * delta.delta:{form}} [{scale * low:{form}}, {scale * high:{form}}]"


def _goals(found: Found) -> list[str]:
    if "terms" not in found.systems:
        return ["Not measured yet."]
    start, end = found.systems["start"], found.systems["terms"]
    goal = list(found.goal)
    lines = []
    before, after = (float(values(s, goal, "other").mean()) for s in (start, end))
    mean = difference(start, end, goal, "other")
    lines.append(
        _verdict(
            after <= 0.5 * before and mean.ci95[1] < 0,
            f"answers in another language down by half on the mean of {', '.join(goal)}, the interval of the fall "
            f"above 0: {_fall(before, after)}, {_delta(mean, True)} points; half or more of it in "
            f"{_sure(halved(start, end, goal, 0.5))}",
        )
    )
    for code in goal:
        before, after = (float(values(s, [code], "other").mean()) for s in (start, end))
        change = difference(start, end, [code], "other")
        text = f"{code}: down by a third: {_fall(before, after)}, {_delta(change, True)} points"
        lines.append(_verdict(3 * after <= 2 * before and change.ci95[1] < 0, text))
    english = difference(start, end, ["en"], "right")
    kept = english.ci95[0] <= 0 <= english.ci95[1] and english.ci95[0] > -0.03
    text = "English: the interval of its change includes 0 and lies above -3 points: "
    lines.append(_verdict(kept, text + _delta(english, True)))
    for code in found.languages:
        change = difference(start, end, [code], "distinct3")
        text = f"{code}: distinct trigrams not down by more than 3 points: {_delta(change, True)}"
        lines.append(_verdict(change.delta >= -0.03, text))
    echo = difference(start, end, goal, "says_back")
    text = f"answers that say the prompt back, mean of {', '.join(goal)}, not up by more than 3 points: "
    lines.append(_verdict(echo.delta <= 0.03, text + _delta(echo, True)))
    for code in told(start, [code for code in found.languages if code != "en"], "known"):
        change = difference(start, end, [code], "known")
        text = f"{code}: words in the language's word list not down by more than 3 points "
        text += "(a goal since the fourth recipe's answers were read): "
        lines.append(_verdict(change.delta >= -0.03, text + _delta(change, True)))
    return lines


def _fall(before: float, after: float) -> str:
    share = f" ({100 * (after - before) / before:+.0f} %)" if before else ""
    return f"{100 * before:.1f} to {100 * after:.1f} %{share}"


def _sure(delta: Delta) -> str:
    low, high = delta.ci95
    return "the whole interval" if low > 0 else "none of the interval" if high < 0 else "a part of the interval"


def _verdict(met: bool, text: str) -> str:
    return f"- {'met' if met else '**not met**'}: {text}"


def answers_page(
    found: Found, prompts: Mapping[tuple[str, str], str], texts: Mapping[str, Mapping[tuple[str, str], str]]
) -> str:
    """Ten prompts a language with every system's answer, to be read by people.

    Args:
        found: What was measured.
        prompts: (language, id) -> prompt.
        texts: System -> (language, id) -> answer.
    """
    lines = [
        "# Answers to read",
        "",
        f"The first {SHOWN} held-out prompts in every language; greedy, cut at the limit.",
        "",
    ]
    for code in found.languages:
        lines += [f"## {code}", ""]
        for place, key in enumerate(found.ids[:SHOWN]):
            lines += [f"**{prompts[code, key]}**", ""]
            for name, system in found.systems.items():
                answer = " ".join(texts[name][code, key].split())
                lines.append(f"- {NAMES[name]} ({system[code][place].outcome}): {answer}")
            lines.append("")
    return "\n".join(lines)
