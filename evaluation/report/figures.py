"""The report's figures as plain values, in per cent where they are shares: what the HTML and the Markdown share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.fidelity import UNSURE
from evaluation.report.answers import curves, right_share
from evaluation.report.data import RunData, fields, interval_of, lookup, number

GATES = ("ok", "duplicate", "language", "truncated", "empty", "garbled", "translation_failed")


@dataclass(frozen=True, slots=True)
class Uplift:
    """Sampled accuracy of one language before and after, per cent; ``low`` and ``high`` bound the difference."""

    language: str
    start: float
    end: float
    low: float | None
    high: float | None
    greedy: tuple[float | None, float | None]
    right_language: tuple[float | None, float | None]
    length: tuple[float | None, float | None]

    @property
    def delta(self) -> float:
        """Points."""
        return self.end - self.start


def percent(value: float | None) -> float | None:
    """A share in per cent."""
    return None if value is None else 100 * value


def uplifts(run: RunData) -> list[Uplift]:
    """By language, the dominant one first; languages without an accuracy are left out."""
    out: list[Uplift] = []
    for code in run.languages:
        entry = lookup(run.summary, "languages", code)
        start, end = (percent(number(entry, when, "accuracy_sampled")) for when in ("start", "end"))
        if start is None or end is None:
            continue
        low, high = map(percent, interval_of(entry, "delta_ci95"))

        def both(name: str, entry: object = entry) -> tuple[float | None, float | None]:
            return number(entry, "start", name), number(entry, "end", name)

        greedy, right = both("accuracy_greedy"), both("right_language")
        out.append(
            Uplift(
                code,
                start,
                end,
                low,
                high,
                (percent(greedy[0]), percent(greedy[1])),
                (percent(right[0]), percent(right[1])),
                both("mean_length"),
            )
        )
    return out


MEANS = {"non_english_mean": "mean of the others", "unseen_mean": "mean of the unseen"}


def mean_uplifts(run: RunData) -> list[Uplift]:
    """The means of the summary: over the languages of the run but the dominant one, over the unseen ones."""
    return [uplift for key in MEANS if (uplift := _mean_uplift(run, key)) is not None]


def _mean_uplift(run: RunData, key: str) -> Uplift | None:
    entry = lookup(run.summary, key)
    start, end = percent(number(entry, "start")), percent(number(entry, "end"))
    if start is None or end is None:
        return None
    low, high = map(percent, interval_of(entry, "delta_ci95"))
    none = (None, None)
    return Uplift(MEANS[key], start, end, low, high, none, none, none)


def evaluation_curves(run: RunData, name: str) -> dict[str, dict[int, float]]:
    """Language -> round -> a share of the held-out evaluation, per cent."""
    out: dict[str, dict[int, float]] = {}
    for code in run.languages:
        for round_number, evaluation in sorted(run.evaluations.items()):
            value = percent(number(evaluation, "languages", code, name))
            if value is not None:
                out.setdefault(code, {})[round_number] = value
    return out


def others_curve(run: RunData) -> dict[int, float]:
    """Round -> mean sampled accuracy of all languages of the run but the dominant one, per cent."""
    left_out = {run.dominant, *run.unseen}
    curves = [points for code, points in evaluation_curves(run, "accuracy_sampled").items() if code not in left_out]
    rounds = sorted({round_number for points in curves for round_number in points})
    complete = [round_number for round_number in rounds if all(round_number in points for points in curves)]
    return {round_number: sum(points[round_number] for points in curves) / len(curves) for round_number in complete}


def learner_curves(run: RunData, name: str, scale: float = 1.0) -> dict[str, dict[int, float]]:
    """Language -> round -> a mean of the learner over the round's last pass."""
    out: dict[str, dict[int, float]] = {}
    codes = {code for row in run.metrics.values() for code in fields(row, "learner", "languages")}
    for code in sorted(codes, key=lambda code: (code != run.dominant, code)):
        for round_number, row in run.metrics.items():
            value = number(row, "learner", "languages", code, name)
            if value is not None:
                out.setdefault(code, {})[round_number] = scale * value
    return out


def term_curves(run: RunData) -> dict[str, dict[str, dict[int, float]]]:
    """Term of the reward -> language -> round -> mean; empty for a reward without terms."""
    out: dict[str, dict[str, dict[int, float]]] = {}
    for round_number, row in run.metrics.items():
        for term, means in fields(row, "counts", "reward_terms").items():
            for code in run.languages:
                if (value := number(means, code)) is not None:
                    out.setdefault(term, {}).setdefault(code, {})[round_number] = value
    return out


def term_rows(run: RunData) -> list[list[str]]:
    """Term, language, mean of the first and of the last round."""
    return [
        [term, code, f"{points[min(points)]:.3f}", f"{points[max(points)]:.3f}"]
        for term, curves in term_curves(run).items()
        for code, points in curves.items()
    ]


def gate_totals(run: RunData) -> dict[str, dict[str, float]]:
    """Language -> gate -> candidates over all rounds."""
    out: dict[str, dict[str, float]] = {}
    for by_language in run.gates.values():
        for code, gates in by_language.items():
            row = out.setdefault(code, {})
            for gate, count in gates.items():
                row[gate] = row.get(gate, 0.0) + count
    return {code: out[code] for code in run.languages if code in out}


def pair_lengths(run: RunData) -> dict[str, dict[str, float]]:
    """Language -> "chosen" or "rejected" -> mean characters, over the pairs of all rounds."""
    sums: dict[str, dict[str, float]] = {}
    weights: dict[str, float] = {}
    for row in run.metrics.values():
        for code in fields(row, "counts", "pair_lengths"):
            lengths = [
                number(row, "counts", "pair_lengths", code, f"{side}_characters") for side in ("chosen", "rejected")
            ]
            pairs = number(row, "counts", "pairs_by_language", code)
            if pairs is None or lengths[0] is None or lengths[1] is None:
                continue
            weights[code] = weights.get(code, 0.0) + pairs
            row_sums = sums.setdefault(code, {"chosen": 0.0, "rejected": 0.0})
            row_sums["chosen"] += pairs * lengths[0]
            row_sums["rejected"] += pairs * lengths[1]
    return {
        code: {side: total / weights[code] for side, total in sides.items()}
        for code, sides in sorted(sums.items())
        if weights[code]
    }


def stage_seconds(run: RunData) -> tuple[dict[str, dict[str, float]], list[str]]:
    """(round -> stage -> seconds, stages by their total). Stages overlap: they add up to more than the wall."""
    rows: dict[str, dict[str, float]] = {}
    totals: dict[str, float] = {}
    for round_number, row in run.metrics.items():
        stages = fields(row, "seconds", "stages")
        times = {stage: number(stages, stage) for stage in stages}
        known = {stage: seconds for stage, seconds in times.items() if seconds is not None}
        wall = number(row, "seconds", "wall")
        label = f"round {round_number}" + (f" ({wall:.0f} s)" if wall is not None else "")
        rows[label] = known
        for stage, seconds in known.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    return rows, sorted(totals, key=lambda stage: -totals[stage])


def confusion_totals(run: RunData) -> tuple[dict[str, dict[str, int]], list[str]]:
    """(asked -> detected -> sampled answers of all rounds, columns in order)."""
    out: dict[str, dict[str, int]] = {}
    for table in run.confusion.values():
        for asked, row in table.items():
            for detected, count in row.items():
                out.setdefault(asked, {})[detected] = out.get(asked, {}).get(detected, 0) + count
    rows = {code: out[code] for code in run.languages if code in out}
    extra = {detected for row in rows.values() for detected in row} - set(run.languages)
    last = [name for name in ("und", "unsure") if name in extra]
    return rows, [*run.languages, *sorted(extra - set(last)), *last]


def transfer(runs: Sequence[RunData]) -> tuple[list[tuple[RunData, dict[str, Uplift]]], list[str]]:
    """(each run with its uplift by evaluated language and mean, these in order): what training on some does to all."""
    rows = [(run, {uplift.language: uplift for uplift in [*uplifts(run), *mean_uplifts(run)]}) for run in runs]
    columns = [*dict.fromkeys(code for run in runs for code in run.languages), *MEANS.values()]
    return [row for row in rows if row[1]], [code for code in columns if any(code in found for _, found in rows)]


@dataclass(frozen=True, slots=True)
class TrainingAnswers:
    """Language -> round -> a figure of the sampled training answers."""

    right_language: dict[str, dict[int, float]]  # per cent of the decided ones
    length: dict[str, dict[int, float]]  # mean characters
    repetition: dict[str, dict[int, float]]  # mean share of repeated text, per cent
    answers: dict[str, int]  # of all rounds
    undecided: dict[str, int]  # of all rounds


def training_answers(run: RunData) -> TrainingAnswers:
    """What a run has to say without held-out prompts."""
    codes = run.languages
    right = {
        round_number: {asked: right_share(row, asked) for asked, row in rows.items()}
        for round_number, rows in run.confusion.items()
    }
    length = {
        round_number: {code: totals.length for code, totals in row.items()} for round_number, row in run.answers.items()
    }
    repeated = {
        round_number: {code: totals.repetition for code, totals in row.items()}
        for round_number, row in run.answers.items()
    }
    return TrainingAnswers(
        curves(right, codes),
        curves(length, codes),
        curves(repeated, codes),
        {
            code: sum(row[code].answers for row in run.answers.values() if code in row)
            for code in codes
            if any(code in row for row in run.answers.values())
        },
        {code: sum(rows.get(code, {}).get(UNSURE, 0) for rows in run.confusion.values()) for code in codes},
    )


def training_rows(found: TrainingAnswers) -> list[list[str]]:
    """A row a language: answers, undecided ones, and each figure in the first and the last round."""
    return [
        [
            code,
            f"{count:,}",
            f"{found.undecided.get(code, 0):,}",
            *(_first_last(curve.get(code)) for curve in (found.right_language, found.length, found.repetition)),
        ]
        for code, count in found.answers.items()
    ]


TRAINING_HEADS = ["language", "answers", "undecided", "right language, %", "characters", "repeated, %"]


def _first_last(points: dict[int, float] | None) -> str:
    if not points:
        return "–"
    first, last = points[min(points)], points[max(points)]
    return f"{first:.1f} → {last:.1f}" if len(points) > 1 else f"{last:.1f}"


def needs_heldout(run: RunData) -> str:
    """What a run lacks that has no accuracy on held-out prompts."""
    if not lookup(run.config, "prompts", "heldout") and not run.evaluations:
        return "held-out prompts with answers: the run names none (prompts.heldout)"
    if not run.summary:
        return "the end of the run: it is not finished"
    return "held-out prompts with gold answers, evaluated before the first round and after the last"


NEEDS_CANDIDATES = (
    "answers sampled in training, which an offline run has none of and an online one has from its first round"
)
KINDS = {"generate": "generate", "judge": "score", "reference": "reference", "train": "train", "sync": "sync"}
Spans = list[tuple[float, float]]


def timelines(run: RunData) -> tuple[dict[str, dict[str, dict[str, Spans]]], list[str]]:
    """(round -> actor -> what it did -> (begin, end) in seconds of the round, all that was done in order)."""
    out: dict[str, dict[str, dict[str, Spans]]] = {}
    for round_number, row in run.metrics.items():
        if not (actors := fields(row, "timeline")):
            continue
        lanes: dict[str, dict[str, Spans]] = {}
        for actor in sorted(actors, key=_lane):
            kinds = fields(actors, actor)
            lanes[actor] = {KINDS.get(kind, kind): _spans(moments) for kind, moments in kinds.items()}
        out[f"round {round_number}"] = lanes
    seen = dict.fromkeys(kind for lanes in out.values() for spans in lanes.values() for kind in spans)
    order = list(KINDS.values())
    return out, sorted(seen, key=lambda kind: order.index(kind) if kind in order else len(order))


def _lane(actor: str) -> tuple[int, str]:
    order = ("rollout", "reward", "learner")
    return next((k for k, name in enumerate(order) if actor.startswith(name)), len(order)), actor


def _spans(moments: object) -> Spans:
    given = [number(moment) for moment in moments] if isinstance(moments, list) else []
    known = [moment for moment in given if moment is not None]
    return list(zip(known[::2], known[1::2], strict=False))
