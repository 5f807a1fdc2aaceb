"""The report in a real browser: no error, no request, and its controls do what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.report import write_report
from rollout.store import Store
from tests.evaluation.test_report import HOSTILE, make_run
from tests.kits.chromium import Page, chromium, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "demo", hostile=HOSTILE))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def test_nothing_is_logged_and_nothing_asked_for(page: Page, report: Path) -> None:
    page.logged.clear()  # of other tests on this page
    page.requests.clear()
    page.show(report)
    assert page.evaluate("document.querySelectorAll('.pair').length") == 12
    page.evaluate("document.querySelector('.pair summary').click()")
    rows = "new Promise(r=>setTimeout(()=>r(document.querySelectorAll('.candidates tr').length),100))"
    assert page.evaluate(rows) == 1 + 3
    assert page.logged == []
    assert page.requests == [report.resolve().as_uri()]


def test_run_without_heldout_prompts(page: Page, tmp_path: Path) -> None:
    """No script fails, and no panel or chart is empty; with pairs and without."""
    bare = write_report(make_run(tmp_path / "bare", heldout=False))
    with Store.open(tmp_path / "new" / "store.sqlite", "digest"):
        pass
    for path, panels in ((bare, 12), (write_report(tmp_path / "new"), 1)):
        page.logged.clear()
        page.show(path)
        page.evaluate("document.getElementById('theme').click()")
        assert page.logged == []
        heights = page.evaluate("[...document.querySelectorAll('section')].map(e=>e.getBoundingClientRect().height)")
        assert len(heights) == panels
        assert min(heights) > 60
        # Every row of the grid is full.
        places = "[...document.querySelectorAll('section')].map(e=>e.getBoundingClientRect()).map(r=>[r.top,r.right])"
        rows: dict[float, float] = {}
        for top, right in page.evaluate(places):
            rows[top] = max(rows.get(top, 0.0), right)
        assert len(set(rows.values())) == 1


def test_the_policy_forbids_requests(page: Page, report: Path) -> None:
    page.show(report)
    page.logged.clear()
    page.requests.clear()
    denied = "fetch('https://example.org/x').then(()=>'sent',()=>'refused')"
    assert page.evaluate(denied) == "refused"
    assert page.requests == []
    assert any("Content Security Policy" in line for line in page.logged)


def test_filters(page: Page, report: Path) -> None:
    page.show(report)
    shown = "[...document.querySelectorAll('.pair>small')].map(e=>e.textContent.split(' · ').slice(0,2).join())"
    change = "(()=>{{const e=document.getElementById('{0}');e.value='{1}';e.dispatchEvent(new Event('{2}'));}})()"
    page.evaluate(change.format("language", "es", "change"))
    page.evaluate(change.format("round", "2", "change"))
    assert page.evaluate(shown) == ["es,round 2"] * 4
    page.evaluate(change.format("words", "nowhere", "input"))
    assert page.evaluate(shown) == []
    assert page.evaluate("document.getElementById('count').textContent") == "0 of 0"
    page.evaluate(change.format("words", "GOOD", "input"))
    assert page.evaluate(shown) == ["es,round 2"] * 4


@pytest.mark.parametrize("dark", [False, True])
def test_both_themes(page: Page, report: Path, dark: bool) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page.show(report, dark=dark)
    before = page.evaluate(colour)
    assert before == ("rgb(17, 21, 28)" if dark else "rgb(246, 247, 249)")
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(colour) == ("rgb(246, 247, 249)" if dark else "rgb(17, 21, 28)")


def test_a_phone_need_not_scroll_sideways(page: Page, report: Path) -> None:
    page.show(report, width=390, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_direction_follows_the_text(page: Page, report: Path) -> None:
    page.show(report)
    direction = """(()=>{{const p=document.querySelector('.text.prompt');p.textContent='{0}';
    return getComputedStyle(p).direction;}})()"""
    assert page.evaluate(direction.format("مرحبا بالعالم")) == "rtl"
    assert page.evaluate(direction.format("hello")) == "ltr"
