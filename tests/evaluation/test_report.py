"""The report: well-formed, self-contained, every text from outside escaped, and clear about bad input."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import UserError
from evaluation.report import render_report, write_report
from evaluation.report.answers import repetition
from evaluation.report.blocks import arranged, section
from evaluation.report.charts import Interval, bars, intervals, lines, ticks
from evaluation.report.data import read_run
from evaluation.report.markdown import plain
from evaluation.report.markup import Markup, el, visible
from evaluation.report.page import embedded
from rollout.records import Candidate, CandidateKey, Pair, Score
from rollout.store import Store
from rollout.token_ids import TokenIds

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=\"alert('2')\"> & \u202eabc \x00 `|*"
VOID = {"meta", "br", "input"}


class Checker(HTMLParser):
    """Fails on tags that don't match, and collects what matters."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def make_run(folder: Path, *, hostile: str = "", rounds: int = 2, finished: bool = True, heldout: bool = True) -> Path:
    """A run folder with a journal, made without running anything."""
    folder.mkdir()
    codes = ["ar", "en", "es"]
    with Store.open(folder / "store.sqlite", "digest", {}, run_name=folder.name + hostile) as store:
        for round in range(1, rounds + 1):
            for code in codes:
                rows = [
                    Candidate(
                        CandidateKey(round, f"p{n}", code, "policy", code, sample),
                        f"answer {sample} مرحبا {hostile}",
                        TokenIds((1, 2)),
                        "stop",
                        round - 1,
                        ("ok", "language", "duplicate")[sample],
                        (code, "en", None)[sample],
                    )
                    for n in range(4)
                    for sample in range(3)
                ]
                store.put_chunk(f"r{round}/{code}", round, "answer", rows)
                scores = [Score(row.key, 0.5 - row.key.sample) for row in rows if row.gate == "ok"]
                store.put_scores(round, f"r{round}/{code}", scores, rows)
            store.put_pairs(
                round,
                [
                    Pair(f"r{round}/{code}/p{n}", round, f"p{n}", code, "mined", f"prompt {hostile}", "good " + hostile,
                         "bad " + hostile, 0.5, -0.5, round - 1)
                    for code in codes[::2]
                    for n in range(4)
                ],
            )  # fmt: skip
            store.set_round_state(round, "done")
        for version in (0, rounds) if heldout else ():
            shares = {code: {"accuracy_sampled": 0.4 + 0.1 * version, "right_language": 0.9} for code in codes}
            store.put_evaluation(version, {"weight_version": version, "languages": shares})
    learner = {code: {"reward_margin": 0.02, "reward_accuracy": 0.9, "pairs": 4} for code in codes}
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for round in range(1, rounds + 1):
            sides = {"chosen_characters": 30.0, "rejected_characters": 32.0, "margin": 0.3}
            counts = {"pairs": 8, "anchors": 2, "pairs_by_language": {"ar": 4, "es": 4}}
            counts["pair_lengths"] = {"ar": sides, "es": sides}
            seconds = {"wall": 9.0, "stages": {"generate": 5.0, "train": 3.5}}
            row = {"round": round, "counts": counts, "learner": {"languages": learner}, "seconds": seconds}
            file.write(json.dumps(row) + "\n")
    config: dict[str, Any] = {
        "languages": {"dominant": "en", "codes": codes},
        "model": {"policy": f"models/start{hostile}"},
        "prompts": {"heldout": "prompts/{lang}.jsonl" if heldout else None},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    if finished:
        figures = {"accuracy_sampled": 0.4, "accuracy_greedy": 0.5, "right_language": 0.9, "mean_length": 31.0}
        better = {**figures, "accuracy_sampled": 0.55}
        entry = {"start": figures, "end": better, "delta_ci95": [0.1, 0.2]}
        mean = {"start": 0.4, "end": 0.55, "delta_ci95": [0.12, 0.18]}
        summary = {"rounds": rounds, "wall_seconds": 20}
        if heldout:
            summary |= {"languages": dict.fromkeys(codes, entry), "non_english_mean": mean}  # type: ignore[dict-item]
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def pairs_in(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="pairs">(.*?)</script>', page, re.DOTALL)
    assert found
    return list(json.loads(found[1]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


def test_page(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text(encoding="utf-8")
    checker = parsed(page)
    heads = " ".join(checker.texts["h2"])
    titles = ["Uplift", "Accuracy over rounds", "Reward margins", "Preference accuracy", "Gates", "Length of chosen"]
    assert [
        title for title in [*titles, "Language asked", "Transfer", "Where the time", "Pairs"] if title not in heads
    ] == []
    assert "+15.0" in page
    assert "[+10.0, +20.0]" in page
    assert "[+12.0, +18.0]" in page
    assert "Nothing recorded" not in page
    assert sum(tag == "svg" for tag, _ in checker.seen) == 12
    assert "Not in this report" not in page
    assert list(run.glob("*.tmp")) == []


def test_needs_nothing_else(run: Path) -> None:
    page = render_report(run)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page, re.IGNORECASE)
    checker = parsed(page)
    outside = [a for tag, a in checker.seen if a.get("src") or a.get("href")]
    assert outside == []
    assert not {"link", "iframe", "img", "object", "base"} & {tag for tag, _ in checker.seen}
    policy = [attrs["content"] for _, attrs in checker.seen if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert "default-src 'none'" in (policy[0] or "")


def test_themes_phones_and_direction(run: Path) -> None:
    page = render_report(run)
    assert "prefers-color-scheme:dark" in page
    assert 'id="theme"' in page
    assert 'name="viewport"' in page
    assert "e.dir='auto'" in page
    assert "innerHTML" not in page


def test_hostile_texts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "evil", hostile=HOSTILE)
    page = render_report(run)
    checker = parsed(page)
    assert sum(tag == "script" for tag, _ in checker.seen) == 2  # the data and our own
    assert "img" not in {tag for tag, _ in checker.seen}
    assert not any(name.startswith("on") for _, attrs in checker.seen for name in attrs)
    assert "\u202e" not in page
    assert "\x00" not in page
    assert "[U+202E]" in page
    rows = pairs_in(page)
    assert rows[0]["chosen"] == "good " + visible(HOSTILE)
    assert rows[0]["candidates"][0]["text"].endswith(visible(HOSTILE))
    text = render_report(run, format="md")
    assert not re.search(r"(?<!\\)<", text)
    assert "\u202e" not in text


def test_browser_data(run: Path) -> None:
    rows = pairs_in(render_report(run))
    assert len(rows) == 16
    assert {(row["language"], row["round"]) for row in rows} == {(c, r) for c in ("ar", "es") for r in (1, 2)}
    first = rows[0]
    assert [c["gate"] for c in first["candidates"]] == ["ok", "language", "duplicate"]
    assert [c["score"] for c in first["candidates"]] == [0.5, None, None]
    assert first["candidates"][1]["detected"] == "en"


def test_selection_is_bounded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.report.data._MAX_PAIRS", 8)
    data = read_run(run)
    assert data.pair_count == 16
    assert len(data.pairs) == 8
    assert {(s.pair.language, s.pair.round) for s in data.pairs} == {(c, r) for c in ("ar", "es") for r in (1, 2)}


def test_compare(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", rounds=1)
    page = render_report(run, [other])
    parsed(page)
    assert "en · demo" in page
    assert "en · other" in page
    assert "Mean of all languages but the dominant one, by run" in page
    assert "## Accuracy before and after, %: other" in render_report(run, [other], "md")


def test_unfinished_runs(tmp_path: Path) -> None:
    page = render_report(make_run(tmp_path / "half", finished=False))
    parsed(page)
    assert "not finished" in page
    assert "Not in this report" in page
    assert "Uplift by language, Transfer: languages trained, languages evaluated</b>: the end of the run" in page
    with Store.open(tmp_path / "new" / "store.sqlite", "digest"):
        pass
    fresh = render_report(tmp_path / "new")
    parsed(fresh)
    assert "0 rounds" in fresh
    assert "Nothing recorded" not in fresh
    assert parsed(fresh).texts["h2"] == ["Not in this report"]
    assert "0 rounds" in fresh
    assert render_report(tmp_path / "new", format="md").startswith("# new")


def test_run_without_heldout_prompts(tmp_path: Path) -> None:
    """What there is is shown, what would fill the rest is said once, and nothing is empty."""
    run = make_run(tmp_path / "bare", heldout=False)
    page = render_report(run)
    checker = parsed(page)
    assert "Nothing recorded" not in page
    assert "Needs a finished run" not in page
    assert "not finished" not in page
    heads = checker.texts["h2"]
    assert not [head for head in heads if head.startswith(("Uplift", "Accuracy over", "Transfer"))]
    for head in ("Training answers in the right language", "Length of training answers", "Repetition in training"):
        assert any(title.startswith(head) for title in heads)
    assert heads[-1] == "Not in this report"
    missing = "Uplift by language, Accuracy over rounds, Transfer: languages trained, languages evaluated"
    assert f"{missing}</b>: held-out prompts with answers: the run names none (prompts.heldout)." in page
    assert "es, round 2: 50 %" in page  # of the two decided answers of three one is Spanish
    text = render_report(run, format="md")
    assert "No accuracy before and after: it needs held-out prompts" in text
    assert "| es | 24 | 8 | 50.0 → 50.0 | 15.0 → 15.0 | 0.0 → 0.0 |" in text
    # Of the evaluation alone: an offline run has no candidates.
    (tmp_path / "offline").mkdir()
    with Store.open(tmp_path / "offline" / "store.sqlite", "digest"):
        pass
    assert "Training answers by language" in render_report(tmp_path / "offline").split("Not in this report")[1]


def test_repetition() -> None:
    assert repetition("") == repetition("short") == 0
    assert repetition("All the words of this sentence differ from each other.") == 0
    assert repetition("ni nzuri sana, " * 40) > 0.95
    assert repetition("これは良いです。" * 40) > 0.95
    assert repetition("   \n" * 400) == 0


def test_lone_panels_take_the_whole_row() -> None:
    narrow, wide = section("a", "note"), section("b", "note", wide=True)
    for order in ([narrow, wide], [narrow, narrow, narrow], [narrow, narrow, wide, narrow]):
        classes = ["wide" in str(markup).split(">")[0] for markup in arranged(order)]
        places = [place for place, is_wide in enumerate(classes) if not is_wide]
        assert len(places) % 2 == 0
    assert arranged([]) == []


def test_markdown(run: Path) -> None:
    text = render_report(run, format="md")
    assert "| en | 40.0 | 55.0 | +15.0 | +10.0 to +20.0 |" in text
    assert "| ar | 8 | 8 | 8 |" in text  # gates
    assert "| es | 8 | 0 | 8 | 8 |" in text or "| es | 8 | 8 | 0 | 8 |" in text  # languages
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
    assert plain("a|b `c`\n<d>") == r"a\|b \`c\` \<d\>"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", '{"round": 1}\n{"round": \n', r"metrics\.jsonl:2: not valid JSON"),
        ("metrics.jsonl", '{"rounds": 1}\n', r"metrics\.jsonl:1: 'round' is missing"),
        ("summary.json", "{\n{", r"summary\.json:2: not valid JSON"),
        ("summary.json", "[]", r"summary\.json:1: a list instead of an object"),
        ("config.yaml", "a: [\nb: 1", r"config\.yaml:\d+: not valid YAML"),
        ("store.sqlite", "no database at all", r"store\.sqlite"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    run = make_run(tmp_path / "run")
    for left in run.glob("store.sqlite-*"):
        left.unlink()
    (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        render_report(run)


def test_figures_of_another_shape_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text(
        '{"round": 1, "counts": 3, "seconds": {"stages": {"x": NaN}}}\n', encoding="utf-8"
    )
    (run / "summary.json").write_text('{"languages": {"en": {"start": 1}}, "non_english_mean": []}', encoding="utf-8")
    parsed(render_report(run))


def test_missing_runs(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        render_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no store\.sqlite in it"):
        render_report(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        render_report(run, [tmp_path / "nowhere"])
    with pytest.raises(UserError, match="pdf: unknown; use html or md"):
        render_report(run, format="pdf")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run, out=tmp_path / "nowhere" / "r.html")


def test_markup() -> None:
    assert el("p", "<b>", Markup("<i></i>"), title='"&') == '<p title="&#34;&amp;">&lt;b&gt;<i></i></p>'
    assert el("td", 3, class_=None) == "<td>3</td>"
    assert el("meta", name="a") == '<meta name="a">'
    assert json.loads(embedded({"a": "</script>\u2028", "b": float("nan")})) == {"a": "</script>\u2028", "b": None}
    assert "<" not in embedded("</script><!--")


def test_charts() -> None:
    assert ticks(0.0, 10.0) == [0, 2, 4, 6, 8, 10]
    assert ticks(3.0, 3.0)[0] <= 3.0 < ticks(3.0, 3.0)[-1]
    for chart in (
        lines({"en": {0: 1.0, 2: 3.0}, "es": {}}, " %"),
        lines({"en": {1: 5.0}}, ""),
        intervals([Interval("en", -2.0, -3.0, 1.0), Interval("<b>", 4.0)], " points"),
        bars({"en": {"a": 1.0, "b": 0.0}, "es": {}}, "", True, ["a", "b"]),
        bars({"en": {"a": 0.0}}, "", False, ["a"]),
    ):
        assert parsed(chart).seen[1][0] == "svg"
        assert "nan" not in chart.lower()
    assert "Nothing recorded" in lines({"en": {}}, "")
    # Labels at one height are moved apart, within the chart.
    crowded = lines({str(k): {0: 1.0, 1: 2.0} for k in range(12)}, "")
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="start"', crowded)]
    assert min(b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)) > 12.9
