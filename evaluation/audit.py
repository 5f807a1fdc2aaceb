"""May a reward be trusted in a language? Its accuracy on labelled pairs by language and subset, and its length bias."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.json_types import JsonObject
from evaluation.report.blocks import document
from evaluation.report.charts import Interval, intervals
from evaluation.report.markup import el
from evaluation.stats import wilson
from rollout.preferences import Preference

ALL = "all"
_NO_SUBSET = "none"
_WIDE = 0.5  # accuracy of a reward that carries nothing


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a reward made of one labelled pair; lengths in characters."""

    id: str
    language: str
    subset: str
    chosen: float
    rejected: float
    chosen_length: int
    rejected_length: int

    @property
    def right(self) -> bool:
        """Whether the chosen answer has the higher reward; a tie is wrong."""
        return self.chosen > self.rejected

    @classmethod
    def of(cls, row: Preference, chosen: float, rejected: float) -> Judgement:
        """The rewards of a pair's two answers; a pair of no subset is of the one called none."""
        lengths = len(row.chosen), len(row.rejected)
        return cls(row.id, row.language, row.subset or _NO_SUBSET, chosen, rejected, *lengths)


def figures(rows: Sequence[Judgement]) -> JsonObject:
    """Accuracy and length bias of some pairs.

    Returns:
        pairs, right, ties; ``accuracy`` with ``ci95`` (Wilson); ``right_longer`` and ``right_shorter``, the accuracy
        where the chosen answer is the longer and the shorter one; ``prefers_longer``, the share of pairs of different
        lengths in which the longer one gets the higher reward (ties as halves), and ``chosen_longer``, in which it is
        the chosen one: their difference is the bias. None where there is no such pair.
    """
    right = sum(row.right for row in rows)
    longer = [row for row in rows if row.chosen_length > row.rejected_length]
    shorter = [row for row in rows if row.chosen_length < row.rejected_length]
    wins = sum(_half(row.chosen, row.rejected) for row in longer) + sum(
        _half(row.rejected, row.chosen) for row in shorter
    )
    uneven = len(longer) + len(shorter)
    return {
        "pairs": len(rows),
        "right": right,
        "ties": sum(row.chosen == row.rejected for row in rows),
        "accuracy": right / len(rows),
        "ci95": list(wilson(right, len(rows))),
        "right_longer": _share(longer, lambda row: row.right),
        "right_shorter": _share(shorter, lambda row: row.right),
        "prefers_longer": wins / uneven if uneven else None,
        "chosen_longer": len(longer) / uneven if uneven else None,
    }


def _half(first: float, second: float) -> float:
    return 1.0 if first > second else 0.5 if first == second else 0.0


def _share(rows: Sequence[Judgement], holds: Callable[[Judgement], bool]) -> float | None:
    return sum(map(holds, rows)) / len(rows) if rows else None


def audit(rows: Sequence[Judgement]) -> dict[str, dict[str, JsonObject]]:
    """:func:`figures` by language and subset, each with ``all``; languages and subsets in order of their names."""
    languages = sorted({row.language for row in rows})
    subsets = sorted({row.subset for row in rows})
    out: dict[str, dict[str, JsonObject]] = {}
    for language in [ALL, *languages]:
        own = [row for row in rows if language in (ALL, row.language)]
        cells = {ALL: figures(own)}
        if len(subsets) > 1:
            cells |= {name: figures(found) for name in subsets if (found := [row for row in own if row.subset == name])}
        out[language] = cells
    return out


def markdown(title: str, found: dict[str, dict[str, JsonObject]], left_out: Sequence[str]) -> str:
    """The tables for people."""
    lines = [
        f"# {title}",
        "",
        "Accuracy: share of pairs whose chosen answer has the higher reward (ties are wrong), with a 95 % interval "
        "(Wilson). Length bias: how much more often the longer answer wins than it is the chosen one, points.",
        "",
        "| language | pairs | accuracy, % | 95 % | chosen longer, % | chosen shorter, % | length bias | ties | trust |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for language, cells in found.items():
        one = cells[ALL]
        low, high = (100 * bound for bound in one["ci95"])
        bias = "-" if one["prefers_longer"] is None else f"{100 * (one['prefers_longer'] - one['chosen_longer']):+.0f}"
        lines.append(
            f"| {language} | {one['pairs']} | {100 * one['accuracy']:.1f} | {low:.1f} to {high:.1f} | "
            f"{_percent(one['right_longer'])} | {_percent(one['right_shorter'])} | {bias} | {one['ties']} | "
            f"{verdict(one)} |"
        )
    subsets = list(dict.fromkeys(name for cells in found.values() for name in cells if name != ALL))
    if subsets:
        lines += ["", f"| accuracy, % | {' | '.join(map(_cell, subsets))} |", "|---" * (len(subsets) + 1) + "|"]
        for language, cells in found.items():
            values = (
                f"{100 * cells[name]['accuracy']:.1f} ({cells[name]['pairs']})" if name in cells else "-"
                for name in subsets
            )
            lines.append(f"| {language} | {' | '.join(values)} |")
    if left_out:
        lines += ["", "Left out:", "", *(f"- {_cell(line)}" for line in left_out)]
    return "\n".join(lines) + "\n"


def verdict(one: JsonObject) -> str:
    """In a word: whether the interval is above, over or below what chance gives."""
    low, high = one["ci95"]
    return "above chance" if low > _WIDE else "below chance" if high < _WIDE else "not told from chance"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def picture(title: str, found: dict[str, dict[str, JsonObject]]) -> str:
    """A page with the accuracy and its interval by language, chance as a line."""
    rows = []
    for name, subsets in found.items():
        one = subsets[ALL]
        low, high = one["ci95"]
        rows.append(Interval(f"{name} ({one['pairs']})", 100 * one["accuracy"], 100 * low, 100 * high))
    chart = intervals(rows, " %", zero=False, level=100 * _WIDE)
    note = el("p", "Accuracy, %, with 95 % intervals; dashed: chance. In brackets: pairs.", class_="note")
    return document(title, el("header", el("h1", title)), el("main", el("section", note, chart)))


def write_audit(out: Path, title: str, rows: Sequence[Judgement], left_out: Sequence[str]) -> tuple[str, list[Path]]:
    """Write ``audit.md``, ``audit.json``, ``pairs.jsonl`` and ``audit.html``; returns the page and the files."""
    found = audit(rows)
    page = markdown(title, found, left_out)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / name for name in ("audit.md", "audit.json", "pairs.jsonl", "audit.html")]
    files[0].write_text(page, encoding="utf-8")
    data = {"title": title, "languages": found, "left_out": list(left_out)}
    files[1].write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with files[2].open("w", encoding="utf-8") as file:
        for row in rows:
            fields = {name: getattr(row, name) for name in Judgement.__slots__}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    files[3].write_text(picture(title, found), encoding="utf-8")
    return page, files
