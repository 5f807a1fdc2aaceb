"""The Markdown page beside a data set: what is in it, what was refused and why, and how its rewards lie. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from configs.json_types import JsonMapping
from configs.schema import Config
from rollout.records import Candidate, Pair, Score
from rollout.sources import Source, setting, sources

Cells = Iterable[object]


def data_card(
    config: Config,
    name: str,
    pairs: Sequence[Pair],
    candidates: Sequence[Candidate],
    scores: Sequence[Score],
    *,
    counts: JsonMapping,
    version: str,
) -> str:
    """The page.

    Args:
        config: Of the run.
        name: Of the data set.
        pairs: All of its pairs.
        candidates: All that were asked for.
        scores: Of those that were scored.
        counts: Of the round (``metrics_rows.round_counts``).
        version: Of isogloss.
    """
    languages = sorted({pair.language for pair in pairs})
    head = ["---", "language:", *(f"- {code}" for code in languages), "configs:", "- config_name: default",
            "  data_files: train.parquet", "---", "", f"# {name}", ""]  # fmt: skip
    head += [
        f"{len(pairs)} preference pairs in {len(languages)} language(s), made by isogloss {version} "
        f"(`isogloss build-data`), seed {config.run.seed}. Prompts: `{config.prompts.train}`. "
        f"Reward: `{config.reward.kind}`; miner: `{config.pairs_miner}`.",
        "",
    ]
    return "\n".join(
        [
            *head,
            *_sources(config),
            *_pairs(pairs, counts),
            *_gates(candidates),
            *_refused(counts),
            *_rewards(scores),
            "The journal beside this page (`journal/`) has every candidate with its text, gate and reward; "
            "`isogloss export` writes it as parquet.",
            "",
        ]
    )


def _table(title: str, head: Sequence[str], rows: Iterable[Cells]) -> list[str]:
    found = list(rows)
    return [f"## {title}", "", *table_lines(head, found)] if found else []


def table_lines(head: Sequence[str], rows: Iterable[Cells]) -> list[str]:
    """A Markdown table, with an empty line behind it."""
    lines = [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines, ""]


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _sources(config: Config) -> list[str]:
    rows = [(one.name, one.giver, _model(config, one), one.samples, one.of, one.scored) for one in sources(config)]
    return _table("Sources", ("source", "given by", "model", "samples", "translates", "scored"), rows)


def _model(config: Config, source: Source) -> str:
    if source.giver == "policy":
        return config.model.policy.name
    own = setting(config.candidates, source)
    if own.kind == "file":
        return own.path
    if own.kind == "custom":
        return own.function
    if source.giver == "command" and own.kind == "translation":
        return own.command[0]
    return config.endpoints[own.endpoint if own.kind == "endpoint" else own.by].model


def _pairs(pairs: Sequence[Pair], counts: JsonMapping) -> list[str]:
    quota, agreement = counts.get("quota", {}), counts.get("agreement", {})
    rows: list[Cells] = []
    for code in sorted({pair.language for pair in pairs} | set(quota)):
        own = [pair for pair in pairs if pair.language == code]
        sides = [_mean(len(pair.chosen) for pair in own), _mean(len(pair.rejected) for pair in own)]
        margin = _mean(pair.chosen_score - pair.rejected_score for pair in own)
        row, agreed = quota.get(code, {}), agreement.get(code, {})
        share = agreed["disagreeing"] / agreed["compared"] if agreed else None
        rows.append((code, len(own), row.get("asked"), row.get("prompts"), *sides, margin, share, row.get("reason")))
    head = ("language", "pairs", "asked", "prompts", "chosen, characters", "rejected, characters", "margin",
            "reward disagrees", "short because of")  # fmt: skip
    return _table("Pairs by language", head, rows)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None


def _gates(candidates: Sequence[Candidate]) -> list[str]:
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for one in candidates:
        row = counts.setdefault((one.key.source, one.key.language), {})
        row[one.gate] = row.get(one.gate, 0) + 1
    gates = sorted({gate for row in counts.values() for gate in row}, key=lambda gate: (gate != "ok", gate))
    rows = [(*place, *(row.get(gate, 0) for gate in gates)) for place, row in sorted(counts.items())]
    return _table("Candidates by gate", ("source", "language", *gates), rows)


def _refused(counts: JsonMapping) -> list[str]:
    rows = [
        (code, reason, count)
        for code, reasons in sorted(counts["refused"].items())
        for reason, count in sorted(reasons.items())
    ]
    return _table("Outcome of mining", ("language", "outcome", "count"), rows)


def _rewards(scores: Sequence[Score]) -> list[str]:
    values: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        values.setdefault((score.key.language, score.key.source), []).append(score.reward)
    rows: list[Cells] = []
    for place, found in sorted(values.items()):
        found.sort()
        at = [found[round(share * (len(found) - 1))] for share in (0.0, 0.1, 0.5, 0.9, 1.0)]
        rows.append((*place, len(found), statistics.fmean(found), statistics.pstdev(found), *at))
    head = ("language", "source", "scores", "mean", "standard deviation", "least", "10%", "median", "90%", "most")
    return _table("Rewards", head, rows)
