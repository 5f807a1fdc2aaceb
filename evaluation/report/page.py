"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from evaluation.report import charts, figures
from evaluation.report.assets import SCRIPT, STYLE
from evaluation.report.data import RunData, lookup, number
from evaluation.report.figures import Uplift
from evaluation.report.markup import Markup, el, join, visible
from rollout.records import text_of_turns

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


_TIMELINES = 4  # rounds whose calls are drawn


def render_html(run: RunData, compare: Sequence[RunData] = ()) -> str:
    """The whole page.

    Args:
        run: The run that is reported.
        compare: Others, shown beside it in the uplift, the curve over rounds and the transfer matrix.
    """
    runs = [run, *compare]
    sections = [
        _uplift(runs),
        _curves(runs),
        _rewards(run),
        _accuracy(run),
        _gates(run),
        _lengths(run),
        _confusion(run),
        _transfer(runs),
        _time(run),
        _browser(run),
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{run.name} · isogloss report"),
        el("style", Markup(STYLE)),
    )
    body = el("body", _header(run), el("main", _tiles(run), el("div", *sections, class_="grid")), _scripts(run))
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


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
        tiles.append(_tile(_points(uplift), f"{name}{_bounds(uplift)}"))
    table, _ = figures.confusion_totals(run)
    decided = {code: sum(n for name, n in row.items() if name != "unsure") for code, row in table.items()}
    if sum(decided.values()):
        right = sum(table[code].get(code, 0) for code in table) / sum(decided.values())
        tiles.append(_tile(f"{100 * right:.1f} %", "sampled answers in the right language, of those decided"))
    mined = [number(row, "counts", "pairs") or 0.0 for row in run.metrics.values()]
    anchors = [number(row, "counts", "anchors") or 0.0 for row in run.metrics.values()]
    tiles.append(_tile(f"{sum(mined):,.0f}", f"pairs mined; {sum(anchors):,.0f} anchors beside them"))
    return el("div", *tiles, class_="tiles")


def _tile(value: object, label: str) -> Markup:
    return el("div", el("b", value), el("span", label), class_="tile")


def _section(title: str, note: str, *content: object, wide: bool = False) -> Markup:
    return el("section", el("h2", title), el("p", note, class_="note"), *content, class_="wide" if wide else None)


def _uplift(runs: Sequence[RunData]) -> Markup:
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
    heads = ["language", "start", "end", "points", "95 %", "greedy", "right language", "characters"]
    return _section(
        "Uplift by language",
        "Accuracy of sampled answers to held-out prompts, after less before, percentage points; 95 % paired bootstrap "
        "over prompts. Greedy accuracy and right language are in per cent. ° marks languages that the run never saw.",
        charts.legend([run.name for run in runs]) if len(runs) > 1 else "",
        charts.intervals(rows, " points"),
        _table(heads, cells) if cells else "",
        wide=True,
    )


def _curves(runs: Sequence[RunData]) -> Markup:
    run = runs[0]
    parts: list[object] = [charts.lines(figures.evaluation_curves(run, "accuracy_sampled"), " %", run.languages)]
    if len(runs) > 1:
        means = {f"{k + 1}": figures.others_curve(other) for k, other in enumerate(runs)}
        parts += [el("h3", "Mean of all languages but the dominant one, by run")]
        parts += [charts.legend([f"{k + 1}: {other.name}" for k, other in enumerate(runs)]), charts.lines(means, " %")]
    parts += [
        el("h3", "Answers in the right language"),
        charts.lines(figures.evaluation_curves(run, "right_language"), " %", run.languages),
    ]
    note = "Held-out prompts, sampled answers, per cent; round 0 is the start."
    return _section("Accuracy over rounds", note, *parts)


def _rewards(run: RunData) -> Markup:
    mined = {
        code: {
            round: value
            for round, row in run.metrics.items()
            if (value := number(row, "counts", "pair_lengths", code, "margin")) is not None
        }
        for code in run.languages
    }
    return _section(
        "Reward margins",
        "Score of the chosen answer less the rejected one, mean over the mined pairs of a round, in the unit of the "
        "reward (implicit rewards: nats).",
        charts.lines(mined, "", run.languages),
        el("h3", "The learner's margin"),
        el("p", "beta times the difference of log-ratios, mean over the round's last pass.", class_="note"),
        charts.lines(figures.learner_curves(run, "reward_margin"), "", run.languages),
    )


def _accuracy(run: RunData) -> Markup:
    return _section(
        "Preference accuracy in training",
        "Share of the pairs that the policy ranks right against the loss reference, per cent, mean over the round's "
        "last pass.",
        charts.lines(figures.learner_curves(run, "reward_accuracy", 100.0), " %", run.languages),
    )


def _gates(run: RunData) -> Markup:
    totals = figures.gate_totals(run)
    names = [gate for gate in figures.GATES if any(gate in row for row in totals.values())]
    names += sorted({gate for row in totals.values() for gate in row} - set(names))
    return _section(
        "Gates by language",
        "Candidates of all rounds by the first gate they failed; duplicates repeat another candidate of their prompt.",
        charts.legend(names),
        charts.bars(totals, " candidates", True, names),
        _table(
            ["language", *names], [[code, *(f"{row.get(n, 0):,.0f}" for n in names)] for code, row in totals.items()]
        ),
    )


def _lengths(run: RunData) -> Markup:
    sides = ["chosen", "rejected"]
    return _section(
        "Length of chosen and rejected",
        "Mean characters over the mined pairs of all rounds. A gap means that length is being rewarded.",
        charts.legend(sides),
        charts.bars(figures.pair_lengths(run), "", False, sides),
    )


def _confusion(run: RunData) -> Markup:
    table, columns = figures.confusion_totals(run)
    rows: list[Markup] = []
    for asked, row in table.items():
        total = sum(row.values())
        cells = [
            el(
                "td",
                f"{100 * row[name] / total:.1f}" if row.get(name) else "·",
                title=f"asked {asked}, answered {name}: {row.get(name, 0):,} of {total:,}",
                style=f"background:rgba(var(--heat),{0.75 * (row.get(name, 0) / total) ** 0.5:.2f})",
            )
            for name in columns
        ]
        rows.append(el("tr", el("td", asked), *cells))
    head = el("tr", el("th", "asked"), *(el("th", name) for name in columns))
    return _section(
        "Language asked and language answered",
        "Sampled training answers of all rounds, per cent of a row. und: none of the run's languages; unsure: too "
        "short or undecided.",
        el("div", el("table", head, *rows, class_="heat"), class_="scroll"),
    )


def _transfer(runs: Sequence[RunData]) -> Markup:
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
    return _section(
        "Transfer: languages trained, languages evaluated",
        "Change of sampled accuracy, points, with 95 % intervals. ° marks a language without mined pairs of its own in "
        "that run. Compare runs with other languages to fill it.",
        _table(["run (trained on)", *columns], cells) if cells else el("p", "Needs a finished run.", class_="note"),
        wide=True,
    )


def _time(run: RunData) -> Markup:
    rows, stages = figures.stage_seconds(run)
    return _section(
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


def _browser(run: RunData) -> Markup:
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
    return _section(
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
        [Markup(f'<script type="application/json" id="pairs">{embedded(rows)}</script>'), el("script", Markup(SCRIPT))]
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


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    head = el("tr", *(el("th", name) for name in heads))
    body = (el("tr", *(el("td", cell) for cell in row)) for row in rows)
    return el("div", el("table", head, *body), class_="scroll")


def _points(uplift: Uplift) -> str:
    return f"{uplift.delta:+.1f}"


def _bounds(uplift: Uplift) -> str:
    return "" if uplift.low is None or uplift.high is None else f" [{uplift.low:+.1f}, {uplift.high:+.1f}]"


def _change(values: tuple[float | None, float | None]) -> str:
    return "–" if None in values else f"{values[0]:.1f} → {values[1]:.1f}"
