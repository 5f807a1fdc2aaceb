"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from evaluation.report import answer_panels, charts, figures
from evaluation.report.assets import BROWSER, SCRIPT
from evaluation.report.blocks import Absent, Section, arranged, chart, document, section, table, tile
from evaluation.report.data import RunData, lookup, number
from evaluation.report.figures import Uplift
from evaluation.report.markup import Markup, el, join, visible
from evaluation.report.wins import wins
from rollout.records import text_of_turns

_TIMELINES = 4  # rounds whose calls are drawn


def render_html(run: RunData, compare: Sequence[RunData] = ()) -> str:
    """The whole page.

    Args:
        run: The run that is reported.
        compare: Others, shown beside it in the uplift, the curve over rounds and the transfer matrix.
    """
    runs = [run, *compare]
    parts = [
        _uplift(runs),
        *wins(run),
        _curves(runs),
        *answer_panels.training(run),
        _rewards(run),
        *answer_panels.terms(run),
        _accuracy(run),
        answer_panels.gates(run),
        answer_panels.lengths(run),
        answer_panels.confusion(run),
        _transfer(runs),
        _time(run),
        _browser(run),
    ]
    absent = [part for part in parts if isinstance(part, Absent)]
    sections = arranged([*(part for part in parts if isinstance(part, Section)), *_absent(absent)])
    main = el("main", _tiles(run), el("div", *sections, class_="grid"))
    return document(f"{run.name} · isogloss report", _header(run), main, _scripts(run))


def _header(run: RunData) -> Markup:
    methods = {
        "policy": lookup(run.config, "model", "policy"),
        "reward": lookup(run.config, "reward", "kind"),
        "objective": lookup(run.config, "learner", "objective"),
        "dominant language": run.dominant,
    }
    rounds = len(run.metrics)
    wall = number(run.summary, "wall_seconds")
    facts = [f"{rounds} round{'' if rounds == 1 else 's'}"]
    facts += [f"{wall:,.0f} s"] if wall is not None else []
    facts += [f"{name}: {value}" for name, value in methods.items() if value]
    if not run.summary:
        facts.append("not finished: no summary yet")
    title = el("div", el("h1", run.name, dir="auto"), el("p", " · ".join(facts), class_="note"))
    return el("header", title, el("button", "Light / dark", id="theme", type="button"))


def _tiles(run: RunData) -> Markup:
    tiles: list[Markup] = []
    rows = figures.uplifts(run)
    for uplift in [*figures.mean_uplifts(run), *(row for row in rows if row.language == run.dominant)]:
        name = f"accuracy, {uplift.language}: {uplift.start:.1f} to {uplift.end:.1f} %"
        tiles.append(tile(_points(uplift), f"{name}{_bounds(uplift)}"))
    found, _ = figures.confusion_totals(run)
    decided = {code: sum(n for name, n in row.items() if name != "unsure") for code, row in found.items()}
    if sum(decided.values()):
        right = sum(found[code].get(code, 0) for code in found) / sum(decided.values())
        tiles.append(tile(f"{100 * right:.1f} %", "sampled answers in the right language, of those decided"))
    mined = [number(row, "counts", "pairs") or 0.0 for row in run.metrics.values()]
    anchors = [number(row, "counts", "anchors") or 0.0 for row in run.metrics.values()]
    tiles.append(tile(f"{sum(mined):,.0f}", f"pairs mined; {sum(anchors):,.0f} anchors beside them"))
    return el("div", *tiles, class_="tiles")


def _absent(parts: Sequence[Absent]) -> list[Section]:
    """One panel for all that have nothing to show, with what would fill them."""
    if not parts:
        return []
    needed: dict[str, list[str]] = {}
    for part in parts:
        needed.setdefault(part.needs, []).append(part.title)
    rows = [[", ".join(titles), needs] for needs, titles in needed.items()]
    listed = el("ul", *(el("li", el("b", titles), f": {needs}.") for titles, needs in rows))
    return [section("Not in this report", "What these need to be shown:", listed, wide=True)]


def _uplift(runs: Sequence[RunData]) -> Section | Absent:
    rows: list[charts.Interval] = []
    cells: list[list[object]] = []
    codes = list(dict.fromkeys(code for run in runs for code in run.languages))
    found = [{u.language: u for u in [*figures.uplifts(run), *figures.mean_uplifts(run)]} for run in runs]
    for code in [*codes, *figures.MEANS.values()]:
        for series, by_language in enumerate(found):
            uplift = by_language.get(code)
            if uplift is None:
                continue
            name = f"{uplift.language}{' °' if code in runs[series].unseen else ''}"
            name = name if len(runs) == 1 else f"{name} · {runs[series].name[:24]}"
            rows.append(charts.Interval(visible(name), uplift.delta, uplift.low, uplift.high, series))
            cells.append(
                [
                    name,
                    f"{uplift.start:.1f}",
                    f"{uplift.end:.1f}",
                    el("span", _points(uplift), class_="up" if uplift.delta > 0 else "down"),
                    _bounds(uplift).strip(),
                    _change(uplift.greedy),
                    _change(uplift.right_language),
                    _change(uplift.length),
                ]
            )
    if not rows:
        return Absent("Uplift by language", figures.needs_heldout(runs[0]))
    heads = ["language", "start", "end", "points", "95 %", "greedy", "right language", "characters"]
    return section(
        "Uplift by language",
        "Accuracy of sampled answers to held-out prompts, after less before, percentage points; 95 % paired bootstrap "
        "over prompts. Greedy accuracy and right language are in per cent. ° marks languages that the run never saw.",
        charts.legend([run.name for run in runs]) if len(runs) > 1 else "",
        charts.intervals(rows, " points"),
        table(heads, cells),
        wide=True,
    )


def _curves(runs: Sequence[RunData]) -> Section | Absent:
    run = runs[0]
    title = "Accuracy over rounds"
    accuracy = figures.evaluation_curves(run, "accuracy_sampled")
    right = figures.evaluation_curves(run, "right_language")
    parts = chart("", "", charts.lines(accuracy, " %", run.languages), accuracy)
    means = {f"{k + 1}": figures.others_curve(other) for k, other in enumerate(runs)}
    if len(runs) > 1 and any(means.values()):
        parts += [el("h3", "Mean of all languages but the dominant one, by run")]
        parts += [charts.legend([f"{k + 1}: {other.name}" for k, other in enumerate(runs)]), charts.lines(means, " %")]
    parts += chart("Answers in the right language", "", charts.lines(right, " %", run.languages), right)
    if not parts:
        return Absent(title, figures.needs_heldout(run))
    return section(title, "Held-out prompts, sampled answers, per cent; round 0 is the start.", *parts)


def _rewards(run: RunData) -> Section | Absent:
    mined = {
        code: points
        for code in run.languages
        if (
            points := {
                round_number: value
                for round_number, row in run.metrics.items()
                if (value := number(row, "counts", "pair_lengths", code, "margin")) is not None
            }
        )
    }
    learner = figures.learner_curves(run, "reward_margin")
    parts = chart("", "", charts.lines(mined, "", run.languages), mined)
    parts += chart(
        "The learner's margin",
        "beta times the difference of log-ratios, mean over the round's last pass.",
        charts.lines(learner, "", run.languages),
        learner,
    )
    title = "Reward margins"
    if not parts:
        return Absent(title, "a finished round with mined pairs")
    return section(
        title,
        "Score of the chosen answer less the rejected one, mean over the mined pairs of a round, in the unit of the "
        "reward (implicit rewards: nats).",
        *parts,
    )


def _accuracy(run: RunData) -> Section | Absent:
    title = "Preference accuracy in training"
    curves = figures.learner_curves(run, "reward_accuracy", 100.0)
    if not curves:
        return Absent(title, "a finished round of an objective over pairs")
    return section(
        title,
        "Share of the pairs that the policy ranks right against the loss reference, per cent, mean over the round's "
        "last pass.",
        charts.lines(curves, " %", run.languages),
    )


def _transfer(runs: Sequence[RunData]) -> Section | Absent:
    rows, columns = figures.transfer(runs)
    cells: list[list[object]] = []
    for run, found in rows:
        trained = run.trained_languages
        line: list[object] = [f"{run.name} ({', '.join(trained) or 'none'})"]
        for code in columns:
            uplift = found.get(code)
            if uplift is None:
                line.append("·")
                continue
            mark = "" if code in trained or code in figures.MEANS.values() else " °"
            kind = "up" if uplift.delta > 0 else "down"
            value = el("span", f"{_points(uplift)}{mark}", class_=kind)
            line.append(join([value, el("small", _bounds(uplift))]))
        cells.append(line)
    title = "Transfer: languages trained, languages evaluated"
    if not cells:
        return Absent(title, figures.needs_heldout(runs[0]))
    return section(
        title,
        "Change of sampled accuracy, points, with 95 % intervals. ° marks a language without mined pairs of its own in "
        "that run. Compare runs with other languages to fill it.",
        table(["run (trained on)", *columns], cells),
        wide=True,
    )


def _time(run: RunData) -> Section | Absent:
    rows, stages = figures.stage_seconds(run)
    if not stages:
        return Absent("Where the time of a round went", "a finished round")
    return section(
        "Where the time of a round went",
        "Seconds by stage, summed over actors; stages overlap, so they add up to more than the wall time beside the "
        "round.",
        charts.legend(stages),
        charts.bars(rows, " s", True, stages),
        *_timelines(run, stages),
        wide=True,
    )


def _timelines(run: RunData, stages: Sequence[str]) -> list[Markup]:
    rounds, kinds = figures.timelines(run)
    names = [*stages, *(kind for kind in kinds if kind not in stages)]  # the colours of the stages
    if not rounds:
        return []
    last = list(rounds.items())[-_TIMELINES:]
    parts = [el("h3", "Each actor's calls" + (f", last {_TIMELINES} rounds" if len(rounds) > _TIMELINES else ""))]
    for title, lanes in last:
        parts += [el("p", title, class_="note"), charts.timeline(lanes, names)]
    return parts


def _browser(run: RunData) -> Section | Absent:
    if not run.pairs:
        return Absent("Pairs", "a round whose pairs are mined")
    codes = sorted({shown.pair.language for shown in run.pairs})
    rounds = sorted({shown.pair.round for shown in run.pairs})
    filters = el(
        "div",
        el("select", el("option", "all languages", value=""), *_options(codes), id="language", aria_label="language"),
        el("select", el("option", "all rounds", value=""), *_options(rounds), id="round", aria_label="round"),
        el(
            "input", type="search", id="words", placeholder="words in prompt or answers", aria_label="words", dir="auto"
        ),
        el("span", "", id="count", class_="note"),
        class_="filters",
    )
    return section(
        "Pairs",
        f"{len(run.pairs):,} of {run.pair_count:,} pairs, the same number from each round and language.",
        filters,
        el("div", id="list"),
        el("button", "More", id="more", type="button"),
        wide=True,
    )


def _options(values: Sequence[object]) -> list[Markup]:
    return [el("option", value, value=value) for value in values]


def _scripts(run: RunData) -> Markup:
    if not run.pairs:
        return el("script", Markup(SCRIPT))
    rows = [
        {
            "id": shown.pair.id,
            "round": shown.pair.round,
            "language": shown.pair.language,
            "source": shown.pair.source,
            "prompt": text_of_turns(shown.pair.prompt),
            "chosen": shown.pair.chosen,
            "rejected": shown.pair.rejected,
            "chosen_score": shown.pair.chosen_score,
            "rejected_score": shown.pair.rejected_score,
            "candidates": [asdict(candidate) for candidate in shown.candidates],
        }
        for shown in run.pairs
    ]
    return join(
        [
            Markup(f'<script type="application/json" id="pairs">{embedded(rows)}</script>'),
            el("script", Markup(SCRIPT + BROWSER)),
        ]
    )


def embedded(data: object) -> str:
    """JSON that cannot end a script element or start a comment, with unsafe characters made visible."""
    text = json.dumps(_visible(data), ensure_ascii=False, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _visible(data: object) -> object:
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, dict):
        return {key: _visible(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_visible(value) for value in data]
    if isinstance(data, float) and (data != data or abs(data) == float("inf")):
        return None
    return data


def _points(uplift: Uplift) -> str:
    return f"{uplift.delta:+.1f}"


def _bounds(uplift: Uplift) -> str:
    return "" if uplift.low is None or uplift.high is None else f" [{uplift.low:+.1f}, {uplift.high:+.1f}]"


def _change(values: tuple[float | None, float | None]) -> str:
    return "–" if None in values else f"{values[0]:.1f} → {values[1]:.1f}"
