"""What a report shows, read from a run folder: its config, summary, metrics and journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from configs.json_types import Json, JsonObject
from configs.reading import kind, read_json
from configs.yaml12 import read_yaml
from evaluation.fidelity import confusion
from evaluation.report.answers import AnswerTotals
from rollout.jsonl import read_rows
from rollout.records import CandidateKey, Pair
from rollout.run_layout import JOURNAL
from rollout.store import Store

_MAX_PAIRS = 360  # in the browser of pairs, spread evenly over rounds and languages
_MOST = 1e100  # a number that a run may have; sums and products of some stay finite
_MAX_TEXT = 3000  # characters of a prompt or answer that is shown
_KEY = ("round", "prompt_id", "language", "source", "origin", "sample")


@dataclass(frozen=True, slots=True)
class ShownCandidate:
    """A candidate of a pair's prompt as the browser shows it; ``score`` is None if it was not scored."""

    text: str
    gate: str
    detected: str | None
    score: float | None
    source: str
    sample: int


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair with all candidates of its prompt, best score first."""

    pair: Pair
    candidates: tuple[ShownCandidate, ...]


@dataclass(frozen=True, slots=True)
class RunData:
    """One run.

    Attributes:
        name: Of the run.
        path: Its folder.
        config: Resolved config, as plain data; empty if the folder has none.
        summary: Content of ``summary.json``; empty for a run that is not finished.
        metrics: Rows of ``metrics.jsonl``, by round.
        evaluations: By the round whose weights answered (0: the start).
        gates: Round -> language -> gate -> candidates, over all sources.
        confusion: Round -> asked -> detected language (or "unsure") -> sampled answers.
        answers: Round -> language -> what the sampled answers are like.
        pairs: A selection for the browser.
        pair_count: Mined and anchor pairs in the journal.
    """

    name: str
    path: Path
    config: JsonObject = field(default_factory=dict)
    summary: JsonObject = field(default_factory=dict)
    metrics: dict[int, JsonObject] = field(default_factory=dict)
    evaluations: dict[int, JsonObject] = field(default_factory=dict)
    gates: dict[int, dict[str, dict[str, int]]] = field(default_factory=dict)
    confusion: dict[int, dict[str, dict[str, int]]] = field(default_factory=dict)
    answers: dict[int, dict[str, AnswerTotals]] = field(default_factory=dict)
    pairs: tuple[ShownPair, ...] = ()
    pair_count: int = 0

    @property
    def dominant(self) -> str | None:
        """The dominant language, where the config names one."""
        value = lookup(self.config, "languages", "dominant")
        return value if isinstance(value, str) else None

    @property
    def languages(self) -> list[str]:
        """The evaluated languages, the dominant one first."""
        codes = set(fields(self.summary, "languages"))
        for evaluation in self.evaluations.values():
            codes |= set(fields(evaluation, "languages"))
        for by_language in self.gates.values():
            codes |= set(by_language)
        return sorted(codes, key=lambda code: (code != self.dominant, code))

    @property
    def unseen(self) -> list[str]:
        """Languages that are evaluated but neither sampled nor trained on."""
        codes = lookup(self.config, "evaluation", "languages")
        return [code for code in codes if isinstance(code, str)] if isinstance(codes, list) else []

    @property
    def trained_languages(self) -> list[str]:
        """Languages that a mined pair was in."""
        codes: set[str] = set()
        for row in self.metrics.values():
            counts = fields(row, "counts", "pairs_by_language")
            codes |= {code for code, count in counts.items() if count}
        return sorted(codes)


def lookup(data: Json, *path: str) -> Json:
    """The value at a path of nested mappings, or None."""
    for key in path:
        if not isinstance(data, Mapping) or key not in data:
            return None
        data = data[key]
    return data


def fields(data: Json, *path: str) -> JsonObject:
    """The mapping at a path; empty where there is none."""
    value = lookup(data, *path)
    return value if isinstance(value, dict) else {}


def number(data: Json, *path: str) -> float | None:
    """The number at a path, or None: without one, and for one that no run has."""
    value = lookup(data, *path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a JSON integer of hundreds of digits
        return None
    return found if abs(found) <= _MOST else None


def interval_of(data: Json, *path: str) -> tuple[float | None, float | None]:
    """Both ends of the interval at a path, a list of two numbers; None for what is none."""
    interval = lookup(data, *path)
    if not isinstance(interval, list) or len(interval) != 2:
        return None, None
    return number(interval[0]), number(interval[1])


def read_run(path: Path) -> RunData:
    """Read a run folder, finished or not, beside its writer if there is one.

    Raises:
        UserError: No such folder, no journal in it, or a file in it is damaged; names the file (and line).
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name a run folder such as runs/demo")
    if not (path / JOURNAL).is_file():
        raise UserError(f"{path}: no store.sqlite in it; name a run folder such as runs/demo")
    with Store.read(path / JOURNAL) as store:
        gates, asked, answers = _candidates(store)
        pairs = [pair for round_number in sorted(store.round_states()) for pair in store.pairs(round_number)]
        return RunData(
            name=store.meta().get("run_name") or path.resolve().name,
            path=path,
            config=_config(path / "config.yaml"),
            summary=_summary(path / "summary.json"),
            metrics=_metrics(path / "metrics.jsonl"),
            evaluations=store.evaluations(),
            gates=gates,
            confusion=asked,
            answers=answers,
            pairs=_shown(store, _selection(pairs)),
            pair_count=len(pairs),
        )


Counts = dict[int, dict[str, dict[str, int]]]


def _candidates(store: Store) -> tuple[Counts, Counts, dict[int, dict[str, AnswerTotals]]]:
    gates: Counter[tuple[int, str, str]] = Counter()
    detected: dict[int, list[tuple[str, str | None]]] = {}
    answers: dict[int, dict[str, AnswerTotals]] = {}
    for row in store.table("candidates", (*_KEY, "gate", "detected_language", "text")):
        round_number, _, language, _, origin, _, gate, found, text = row
        gates[round_number, language, gate] += 1
        if origin == language:  # an answer, no translation of one
            detected.setdefault(round_number, []).append((language, found))
            answers.setdefault(round_number, {}).setdefault(language, AnswerTotals()).add(text)
    out: dict[int, dict[str, dict[str, int]]] = {}
    for (round_number, language, gate), count in sorted(gates.items()):
        out.setdefault(round_number, {}).setdefault(language, {})[gate] = count
    return out, {round_number: confusion(rows) for round_number, rows in sorted(detected.items())}, answers


def _selection(pairs: list[Pair]) -> list[Pair]:
    """At most ``_MAX_PAIRS``: from each round and language the same number, evenly over the sorted ids."""
    groups: dict[tuple[int, str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.round, pair.language, pair.source), []).append(pair)
    if not groups:
        return []
    share = max(1, _MAX_PAIRS // len(groups))
    chosen: list[Pair] = []
    for group in groups.values():
        step = max(1.0, len(group) / share)
        chosen += [group[int(place * step)] for place in range(min(share, len(group)))]
    # Mined ones first, those of one prompt in several languages beside each other.
    return sorted(chosen[:_MAX_PAIRS], key=lambda pair: (pair.source != "mined", pair.round, pair.prompt_id))


def _shown(store: Store, pairs: list[Pair]) -> tuple[ShownPair, ...]:
    wanted = {(pair.round, pair.prompt_id, pair.language) for pair in pairs if pair.source == "mined"}
    rounds = sorted({round_number for round_number, _, _ in wanted})
    scores: dict[CandidateKey, float] = {s.key: s.reward for round_number in rounds for s in store.scores(round_number)}
    candidates: dict[tuple[int, str, str], list[ShownCandidate]] = {}
    for row in store.table("candidates", (*_KEY, "text", "gate", "detected_language")):
        key = CandidateKey(*row[:6])
        place = (key.round, key.prompt_id, key.language)
        if place in wanted:
            shown = ShownCandidate(row[6][:_MAX_TEXT], row[7], row[8], scores.get(key), key.source, key.sample)
            candidates.setdefault(place, []).append(shown)
    return tuple(
        ShownPair(
            pair,
            tuple(
                sorted(
                    candidates.get((pair.round, pair.prompt_id, pair.language), ()) if pair.source == "mined" else (),
                    key=lambda c: (c.score is None, -(c.score or 0.0), c.source, c.sample),
                )
            ),
        )
        for pair in pairs
    )


def _summary(path: Path) -> JsonObject:
    if not path.exists():
        return {}
    data = read_json(path, "the run's summary", "restore or remove the file")
    if not isinstance(data, dict):
        raise UserError(f"{path}:1: {kind(data)} instead of an object; restore or remove the file")
    return data


def _metrics(path: Path) -> dict[int, JsonObject]:
    if not path.exists() or path.stat().st_size == 0:
        return {}
    rows: dict[int, JsonObject] = {}
    for line, row in read_rows(path, "metrics of the run"):
        round_number = row.get("round")
        if not isinstance(round_number, int) or isinstance(round_number, bool):
            raise UserError(f"{path}:{line}: 'round' is missing or no integer; remove the line")
        rows[round_number] = row
    return dict(sorted(rows.items()))


def _config(path: Path) -> JsonObject:
    if not path.exists():
        return {}
    data = read_yaml(path, "config of a run")
    return data if isinstance(data, dict) else {}
