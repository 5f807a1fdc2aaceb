"""The figures of an evaluation, each with its interval, its number of items, and what was left out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.fidelity import AnswerFidelity, confused_scripts
from evaluation.length_controlled import (
    LEAST_MODELS,
    Difficulty,
    estimate_difficulty,
    length_controlled_by_language,
    too_few,
)
from evaluation.mgsm import extract_answer, is_right
from evaluation.pass_rates import line_passes, word_passes
from evaluation.stats import paired_bootstrap, wilson
from evaluation.suites.answers import describe
from evaluation.suites.records import Answers, Suite
from evaluation.winrate import Comparison, WinRate, by_language, clustered_interval, ratio_interval, win_rates
from rollout.rewards import is_correct
from rollout.seeds import stable_seed

ALL = "all"  # the mean of the languages
RESAMPLES = 2000
Method = Literal["wilson", "bootstrap"]
Key = tuple[str, str]  # (language, id)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        name: What it is, e.g. "accuracy".
        language: BCP-47 code, or "all" for the mean of the languages.
        value: In ``unit``; None where nothing could be counted.
        unit: "%", "points" or "characters".
        ci95: 95 % interval in the same unit.
        method: Of the interval: Wilson's, for one yes or no an item; else a percentile bootstrap that draws prompts,
            each with all its languages.
        items: What the value was made from.
        counts: What else belongs beside it: ties, inconsistent and failed verdicts, empty answers, undecided languages.
    """

    name: str
    language: str
    value: float | None
    unit: str
    ci95: tuple[float, float] | None
    method: Method
    items: int
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Marks:
    """Which answers are right, and how many gave no answer that could be read (MGSM)."""

    right: dict[Key, bool]
    extracted: dict[Key, str | None]

    @property
    def unread(self) -> dict[Key, bool]:
        """Answers without a number."""
        return {key: value is None for key, value in self.extracted.items()}


def mark(suite: Suite, answers: Answers) -> Marks:
    """Right or wrong, where there are gold answers: MGSM by the number that ends it, others by the whole text."""
    right: dict[Key, bool] = {}
    extracted: dict[Key, str | None] = {}
    for item in suite.items:
        if item.gold is None:
            raise ValueError(f"{item.where}: no gold answer")
        text = answers[item.key].text
        if suite.name == "mgsm":
            right[item.key] = is_right(text, item.gold, item.language)
            value = extract_answer(text, item.language).value
            extracted[item.key] = None if value is None else str(value)
        else:
            right[item.key] = is_correct(text, item.gold)
    return Marks(right, extracted)


def accuracy_figures(suite: Suite, answers: Answers, marks: Marks) -> list[Figure]:
    """Share of right answers by language and over all."""

    def counts(keys: Sequence[Key]) -> dict[str, int]:
        found = describe([answers[key] for key in keys])
        unread = {"no_answer": sum(marks.unread[key] for key in keys)} if marks.extracted else {}
        return {"right": sum(marks.right[key] for key in keys), **unread, **found}

    return _shares("accuracy", suite, dict(marks.right), counts)


def difference_figures(suite: Suite, marks: Marks, against: Marks) -> list[Figure]:
    """Accuracy less that of the other model, on the same prompts; paired bootstrap."""
    values = {key: float(marks.right[key]) - float(against.right[key]) for key in marks.right}
    out: list[Figure] = []
    for code in suite.languages:
        keys = [item.key for item in suite.of(code)]
        ours, theirs = (np.array([float(m.right[key]) for key in keys]) for m in (marks, against))
        delta = paired_bootstrap(theirs, ours, RESAMPLES, stable_seed("eval", "difference", code))
        low, high = delta.ci95
        counts = {
            "better": sum(values[key] > 0 for key in keys),
            "worse": sum(values[key] < 0 for key in keys),
            "equal": sum(values[key] == 0 for key in keys),
        }
        value, interval = 100 * delta.delta, (100 * low, 100 * high)
        out.append(Figure("accuracy_difference", code, value, "points", interval, "bootstrap", len(keys), counts))
    if len(out) > 1:
        table = 100 * _table(suite, values)
        interval = clustered_interval(table, RESAMPLES, stable_seed("eval", "difference"))
        mean = float(np.nanmean(table, axis=0).mean())
        total = _total([figure.counts for figure in out])
        out.append(Figure("accuracy_difference", ALL, mean, "points", interval, "bootstrap", len(values), total))
    return out


def fidelity_figures(suite: Suite, found: Mapping[Key, AnswerFidelity]) -> list[Figure]:
    """Right language by answer and by line, code-switching, script confusion; what was not decided stands beside."""
    decided = {key: None if f.detected is None else f.detected == key[0] for key, f in found.items()}
    switching = {key: f.switches if sum(line is not None for line in f.lines) > 1 else None for key, f in found.items()}

    def undecided(keys: Sequence[Key]) -> dict[str, int]:
        unsure = sum(decided[key] is None for key in keys)
        return {"unsure": unsure, "without_letters": sum(not found[key].scripts for key in keys)}

    out = _shares("right_language", suite, decided, undecided)
    out += _line_shares(suite, found)
    out += _shares(
        "code_switching",
        suite,
        switching,
        lambda keys: {"fewer_than_two_lines": sum(switching[key] is None for key in keys)},
    )
    scripts = {key: value for code in suite.languages for key, value in _confused(suite, code, found).items()}
    return out + _shares(
        "script_confusion",
        suite,
        scripts,
        lambda keys: {"without_letters": sum(scripts[key] is None for key in keys)},
    )


def pass_figures(suite: Suite, answers: Answers, found: Mapping[Key, AnswerFidelity]) -> list[Figure]:
    """Line pass rate, and word pass rate of the answers that pass by lines (Language Confusion Benchmark)."""
    by_line = {key: line_passes(answers[key].text, fidelity) for key, fidelity in found.items()}
    by_word = {key: word_passes(answers[key].text, key[0]) if passed else None for key, passed in by_line.items()}
    out = _shares(
        "line_pass_rate", suite, by_line, lambda keys: {"no_line_decided": sum(by_line[key] is None for key in keys)}
    )
    return out + _shares(
        "word_pass_rate",
        suite,
        by_word,
        lambda keys: {"latin_script": sum(by_word[key] is None and by_line[key] is True for key in keys)},
    )


def length_figures(suite: Suite, answers: Answers) -> list[Figure]:
    """Mean length of an answer, characters."""
    values = {key: float(len(answer.text)) for key, answer in answers.items()}
    out: list[Figure] = []
    for code in [*suite.languages, *([ALL] if len(suite.languages) > 1 else [])]:
        keys = _keys(suite, code)
        table = _table(suite, {key: values[key] for key in keys})
        interval = clustered_interval(table, RESAMPLES, stable_seed("eval", "length", code))
        counts = describe([answers[key] for key in keys])
        value = float(np.nanmean(table, axis=0).mean())
        out.append(Figure("length", code, value, "characters", interval, "bootstrap", len(keys), counts))
    return out


def difficulties(
    others: Mapping[str, Sequence[Comparison]], languages: Sequence[str]
) -> tuple[dict[str, Difficulty | None], dict[str, int]]:
    """By language, the items' difficulty from the verdicts on other models, and how many models have verdicts in it."""
    out: dict[str, Difficulty | None] = {}
    models: dict[str, int] = {}
    for code in languages:
        rows = {name: [v for v in verdicts if v.language == code] for name, verdicts in others.items()}
        models[code] = sum(bool(own) for own in rows.values())
        out[code] = estimate_difficulty(rows)
    return out, models


def win_figures(verdicts: Sequence[Comparison], others: Mapping[str, Sequence[Comparison]]) -> list[Figure]:
    """Win rate and length-controlled win rate by language and over all, with the judge's ties and failures beside both.

    Args:
        verdicts: Of the model.
        others: Of other models against the same baseline, by name: where the items' difficulty comes from. A language
            with too few of them gets a length-controlled figure without a value (see :func:`missing`).
    """
    rates, overall = win_rates(verdicts, RESAMPLES)
    out = [_win("win_rate", code, rate) for code, rate in rates.items()]
    groups = by_language(verdicts)
    if len(rates) > 1:
        out.append(_win("win_rate", ALL, overall))
    known, models = difficulties(others, list(groups))
    usable = {code: found.models if found is not None else min(models[code], 1) for code, found in known.items()}
    few = [code for code in groups if rates[code].items and too_few(usable[code]) is not None]
    out += [_refused(code, rates[code], usable[code]) for code in few]
    fitted = {code: rows for code, rows in groups.items() if code not in few and _fits(rows, known[code])}
    if not fitted:
        return out
    controlled, (mean, interval) = length_controlled_by_language(fitted, known)
    for code, result in controlled.items():
        counts = _judged(rates[code]) | {
            "left_out": result.left_out,
            "difficulty_models": result.difficulty_models,
            "other_models": models[code],
        }
        out.append(Figure("lc_win_rate", code, result.win_rate, "%", result.ci95, "bootstrap", result.items, counts))
    if len(controlled) > 1:
        counts = _judged(overall) | {
            "left_out": sum(result.left_out for result in controlled.values()),
            "languages": len(controlled),
        }
        items = sum(result.items for result in controlled.values())
        out.append(Figure("lc_win_rate", ALL, mean, "%", interval, "bootstrap", items, counts))
    return out


def missing(figures: Sequence[Figure]) -> list[str]:
    """Why figures have no value, a line for each reason."""
    by_count: dict[int, list[str]] = {}
    for figure in figures:
        if "models_needed" in figure.counts:
            by_count.setdefault(figure.counts["other_models"], []).append(figure.language)
    return [f"{', '.join(codes)}: {too_few(others)}" for others, codes in sorted(by_count.items())]


def _refused(code: str, rate: WinRate, others: int) -> Figure:
    counts = _judged(rate) | {"other_models": others, "models_needed": LEAST_MODELS}
    return Figure("lc_win_rate", code, None, "%", None, "bootstrap", 0, counts)


def _fits(rows: Sequence[Comparison], difficulty: Difficulty | None) -> bool:
    return any(v.preference is not None and (difficulty is None or v.item in difficulty.items) for v in rows)


def _win(name: str, code: str, rate: WinRate) -> Figure:
    exact = rate.wilson95 is not None
    interval = rate.wilson95 if exact else rate.ci95
    method: Method = "wilson" if exact else "bootstrap"
    return Figure(name, code, rate.win_rate, "%", interval, method, rate.items, _judged(rate))


def _judged(rate: WinRate) -> dict[str, int]:
    return {
        "wins": rate.wins,
        "ties": rate.ties,
        "losses": rate.losses,
        "inconsistent": rate.inconsistent,
        "failed": rate.failed,
    }


def _shares(
    name: str,
    suite: Suite,
    values: Mapping[Key, bool | None],
    counts: Callable[[Sequence[Key]], dict[str, int]],
) -> list[Figure]:
    """A share by language (Wilson) and the mean of the languages (bootstrap over prompts); None is left out."""
    out: list[Figure] = []
    for code in suite.languages:
        keys = _keys(suite, code)
        known = [value for key in keys if (value := values[key]) is not None]
        share, interval = None, None
        if known:
            low, high = wilson(sum(known), len(known))
            share, interval = 100 * sum(known) / len(known), (100 * low, 100 * high)
        out.append(Figure(name, code, share, "%", interval, "wilson", len(known), counts(keys)))
    if len(out) > 1:
        table = 100 * _table(suite, {key: float(value) for key, value in values.items() if value is not None})
        mean, joint = None, None
        method: Method = "bootstrap"
        if table.size:
            mean = float(np.nanmean(table, axis=0).mean())
            joint = clustered_interval(table, RESAMPLES, stable_seed("eval", name))
            if joint[0] == joint[1]:
                # All alike: a bootstrap then has no width. Wilson's, with each prompt counted once.
                low, high = wilson(round(mean / 100 * len(table)), len(table))
                joint, method = (100 * low, 100 * high), "wilson"
        items = sum(figure.items for figure in out)
        out.append(Figure(name, ALL, mean, "%", joint, method, items, counts(_keys(suite, ALL))))
    return out


def _line_shares(suite: Suite, found: Mapping[Key, AnswerFidelity]) -> list[Figure]:
    """Share of the decided lines in the right language; lines of one answer are drawn together."""
    known = {key: [line for line in f.lines if line is not None] for key, f in found.items()}
    right = {key: float(sum(line == key[0] for line in lines)) for key, lines in known.items()}
    total = {key: float(len(lines)) for key, lines in known.items()}
    out: list[Figure] = []
    for code in [*suite.languages, *([ALL] if len(suite.languages) > 1 else [])]:
        keys = _keys(suite, code)
        sums, counts = (np.nan_to_num(_table(suite, {k: source[k] for k in keys})) for source in (right, total))
        used = counts.sum(axis=0) > 0
        lines = int(counts.sum())
        value, interval = None, None
        if used.any():
            value = 100 * float((sums.sum(axis=0)[used] / counts.sum(axis=0)[used]).mean())
            low, high = ratio_interval(sums[:, used], counts[:, used], RESAMPLES, stable_seed("eval", "lines", code))
            interval = (100 * low, 100 * high)
        beside = {"unsure_lines": sum(len(found[key].lines) for key in keys) - lines, "answers": len(keys)}
        out.append(Figure("right_lines", code, value, "%", interval, "bootstrap", lines, beside))
    return out


def _confused(suite: Suite, code: str, found: Mapping[Key, AnswerFidelity]) -> dict[Key, bool | None]:
    keys = _keys(suite, code)
    return dict(zip(keys, confused_scripts(code, [found[key] for key in keys]), strict=True))


def _keys(suite: Suite, code: str) -> list[Key]:
    return [item.key for item in suite.items if code in (ALL, item.language)]


def _table(suite: Suite, values: Mapping[Key, float]) -> NDArray[np.float64]:
    """(prompt ids, languages), NaN where there is no value; ids and languages without any are left out."""
    rows = {name: k for k, name in enumerate(dict.fromkeys(key[1] for key in values))}
    columns = {code: k for k, code in enumerate(c for c in suite.languages if any(key[0] == c for key in values))}
    table = np.full((len(rows), len(columns)), np.nan)
    for (code, name), value in values.items():
        table[rows[name], columns[code]] = value
    return table


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for row in counts:
        for name, count in row.items():
            out[name] = out.get(name, 0) + count
    return out
