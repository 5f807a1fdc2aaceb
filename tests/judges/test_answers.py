"""What a judge said, kept: repeated, killed and shared judging; how two orders and a judge's words are read."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.errors import UserError
from judges import Usage, compare
from judges.cache import Answer, VerdictCache, question_key
from judges.progress import judging_progress
from judges.wording import load_wording, merge_orders
from tests.judges.test_judges import items
from tests.kits.judge import Says, always_first, judge_server, longer, mostly_first


def test_repeated_judging_asks_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "verdicts.sqlite"
    usages: list[Usage] = []
    with judge_server(mostly_first(0.5)) as stub, judge_server(always_first) as elsewhere:
        first = compare(items(20), stub.config(), cache)
        assert compare(items(20), stub.config(), cache, watch=usages.append) == first
        assert compare(items(20), elsewhere.config(), cache) == first, "the address is no part of the key"
        assert elsewhere.shown == []
        assert usages[-1].cached == usages[-1].done == 40
        for change in ({"model": "other"}, {"revision": "2"}, {"temperature": 0.5}, {"extra_body": {"seed": 1}}):
            before = len(stub.shown)
            compare(items(1), stub.config(**change), cache)
            assert len(stub.shown) == before + 2, change
        doubled = compare([*items(2), *items(2)], stub.config(model="third"), None)
        assert doubled[:2] == doubled[2:]


def test_usage_is_counted_and_priced(capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(longer) as stub:
        config = stub.config(price_per_million_input=2.0, price_per_million_output=8.0, max_concurrency=3)
        usages: list[Usage] = []
        stub.behaviour = lambda shown: Says("A", after_s=0.02)
        compare(items(12), config, None, watch=usages.append)
        assert stub.most_at_once <= 3
        assert max(u.in_flight for u in usages) == 3
        last = usages[-1]
        assert (last.done, last.requests, last.prompt_tokens, last.completion_tokens) == (24, 24, 2400, 48)
        assert last.cost == pytest.approx((2400 * 2 + 48 * 8) / 1e6)
        with judging_progress("judging") as watch:
            compare(items(12), config, None, watch=watch)
    assert "judging: 24 of 24 questions, 2,400 + 48 tokens, cost 0.0052" in capsys.readouterr().out


def test_killed_judging_continues_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.sqlite"
    code = f"""
import sys
from pathlib import Path
from tests.judges.test_judges import items
from judges import compare
from configs.schema import JudgeConfig
compare(items(50), JudgeConfig(base_url=sys.argv[1], model="stub", max_concurrency=2), Path({str(cache)!r}))
"""
    with judge_server(lambda shown: Says("A", after_s=0.01)) as stub:
        process = subprocess.Popen([sys.executable, "-c", code, stub.url])
        while len(stub.shown) < 30:
            time.sleep(0.01)
            assert process.poll() is None
        process.kill()
        process.wait()
        sent = len(stub.shown)
        assert 30 <= sent < 100
        verdicts = compare(items(50), stub.config(), cache)
        repeated = len(stub.shown) - 100
    assert 0 <= repeated <= 2, "only what was in flight is asked again"
    assert all(v.inconsistent for v in verdicts)


def test_many_writers_share_a_cache(tmp_path: Path) -> None:
    """Eight connections open a fresh file and write the same keys at once; the first answer stays."""
    path = tmp_path / "verdicts.sqlite"
    keys = [question_key(number=n) for n in range(40)]

    def write(writer: int) -> dict[bytes, Answer]:
        with VerdictCache(path) as cache:
            for key in keys:
                cache.put(key, "j", "w", "en", Answer(writer / 10, "words", "A"))
            return cache.get(keys)

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(write, range(8)))
    assert all(one == seen[0] for one in seen)
    assert set(seen[0]) == set(keys)


def test_file_that_is_no_cache(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to be taken for one" * 50)
    with pytest.raises(UserError, match=r"judge\.cache: .*notes\.txt cannot be used"):
        VerdictCache(text)
    foreign = tmp_path / "store.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE candidates (x)")
    with pytest.raises(UserError, match=r"judge\.cache: .*store\.sqlite is no file of verdicts"):
        VerdictCache(foreign)


@pytest.mark.parametrize(
    ("a_first", "b_first", "expected"),
    [
        (1.0, 0.0, (1.0, False)),
        (0.0, 1.0, (0.0, False)),
        (1.0, 1.0, (0.5, True)),
        (0.5, 0.5, (0.5, False)),
        (1.0, 0.5, (0.5, True)),
        (0.6, 0.2, (0.7, False)),
    ],
)
def test_merged_orders(a_first: float, b_first: float, expected: tuple[float, bool]) -> None:
    preference, inconsistent = merge_orders(a_first, b_first)
    assert (pytest.approx(preference), inconsistent) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("A", 1.0),
        (" b.\n", 0.0),
        ("**A**", 1.0),
        ("Answer: B", 0.0),
        ("<think>B B B</think>\nA", 1.0),
        ("A good answer", None),
        ("A or B", None),
        ("C", None),
        ("", None),
    ],
)
def test_labels_in_words(words: str, expected: float | None) -> None:
    assert load_wording("label").read_words(words) == expected


def test_braces_in_texts_are_text() -> None:
    messages = load_wording("label").messages("English", "{first} {", "{}", "}")
    assert "<instruction>\n{first} {\n</instruction>" in messages[1]["content"]
