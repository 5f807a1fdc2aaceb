"""Judging against a real local server: bias, failures, retries, cache."""

from __future__ import annotations

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema import JudgeConfig
from judges import Item, Judge, Usage, Verdict, check_endpoint, compare, tally
from tests.kits.judge import Says, Shown, always_first, judge_server, longer, mostly_first


def items(count: int, language: str = "sw") -> list[Item]:
    """Answers of different lengths; a is the longer one in every other of them."""
    rng = random.Random(7)
    made = []
    for index in range(count):
        lengths = [5 + rng.randrange(40), 50 + rng.randrange(40)]
        lengths = lengths if index % 2 else lengths[::-1]
        made.append(Item(f"i{index}", language, f"Question {index}?", "a" * lengths[0], "b" * lengths[1]))
    return made


def win_rate(verdicts: list[Verdict]) -> tuple[float, float]:
    """(mean preference, its standard error)."""
    values = [v.preference for v in verdicts if v.preference is not None]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, spread / math.sqrt(len(values))


def test_position_bias_alone_gives_ties_only(tmp_path: Path) -> None:
    asked = [*items(20), *items(12, "de")]
    with judge_server(always_first) as stub:
        verdicts = compare(asked, stub.config(), tmp_path / "verdicts.sqlite")
        assert len(stub.shown) == 64
    assert [(v.id, v.language) for v in verdicts] == [(i.id, i.language) for i in asked]
    assert all(v.tie and v.inconsistent and not v.failed for v in verdicts)
    counts = tally(verdicts)
    assert list(counts) == ["de", "sw"]
    assert (counts["sw"].items, counts["sw"].ties, counts["sw"].inconsistent) == (20, 20, 20)
    assert {s.language for s in stub.shown} == {"Swahili", "German"}


def test_partial_position_bias_leaves_the_win_rate_at_a_half(tmp_path: Path) -> None:
    asked = items(300)
    with judge_server(mostly_first(0.8)) as stub:
        verdicts = compare(asked, stub.config(max_concurrency=32), tmp_path / "verdicts.sqlite")
    mean, error = win_rate(verdicts)
    assert abs(mean - 0.5) < 1.96 * error
    print(
        f"win rate {mean:.3f} +- {1.96 * error:.3f}, inconsistent {tally(verdicts)['sw'].inconsistent}/{len(verdicts)}"
    )
    # Inconsistent unless the order with the shorter answer first was judged by length: 0.8 of all.
    inconsistent = tally(verdicts)["sw"].inconsistent / len(verdicts)
    assert abs(inconsistent - 0.8) < 1.96 * math.sqrt(0.8 * 0.2 / len(verdicts))
    decided = [(v, i) for v, i in zip(verdicts, asked, strict=True) if not v.inconsistent]
    assert all((v.preference == 1.0) == (len(i.answer_a) > len(i.answer_b)) for v, i in decided)


def test_preference_is_the_probability_where_the_server_gives_it() -> None:
    def behave(shown: Shown) -> Says:
        good = 0.9 if shown.first.startswith("a") else 0.3
        odds = {"A": math.log(0.8 * good), "B": math.log(0.8 * (1 - good)), "The": math.log(0.2)}
        return Says("A" if good > 0.5 else "B", logprobs=odds)

    with judge_server(behave) as stub:
        (verdict,) = compare(items(1), stub.config(), None)
        assert {s.body["top_logprobs"] for s in stub.shown} == {5}
    assert verdict.preference == pytest.approx((0.9 + 0.7) / 2)
    assert not verdict.inconsistent


def test_first_token_that_is_no_label_is_not_read_as_one() -> None:
    odds = {"The": math.log(0.9), "A": math.log(0.08), "B": math.log(0.02)}
    with judge_server(lambda shown: Says("Answer: B" if shown.first[0] == "a" else "A", logprobs=odds)) as stub:
        (verdict,) = compare(items(1), stub.config(), None)
    assert verdict.preference == 0.0


def test_server_without_logprobs() -> None:
    def behave(shown: Shown) -> Says:
        if "logprobs" in shown.body:
            return Says("logprobs are not supported", status=400)
        return longer(shown)

    with judge_server(behave) as stub:
        verdicts = compare(items(6), stub.config(max_concurrency=1), None)
        assert len(stub.shown) == 13  # one in vain
        with pytest.raises(UserError, match=r"judge\.logprobs: always, but .* not supported.*; set it to auto"):
            compare(items(1), stub.config(logprobs="always"), None)
    assert not any(v.failed for v in verdicts)
    with judge_server(longer) as stub, pytest.raises(UserError, match=r"judge\.logprobs: always, but .* gives none"):
        compare(items(1), stub.config(logprobs="always"), None)


def test_nonsense_is_asked_again_once_and_counted(tmp_path: Path) -> None:
    def behave(shown: Shown) -> Says:
        if shown.instruction == "Question 0?":
            return Says("A good question indeed.")
        if shown.instruction == "Question 1?" and len(shown.body["messages"]) == 2:
            return Says("Hm.")
        return longer(shown)

    with judge_server(behave) as stub:
        config = stub.config(max_failed_share=0.2)
        verdicts = compare(items(5), config, tmp_path / "verdicts.sqlite")
        assert len(stub.shown) == 4 + 4 + 6
        reminder = next(s.body["messages"] for s in stub.shown if len(s.body["messages"]) == 4)
        assert reminder[3] == {"role": "user", "content": "Reply with one letter and nothing else: A or B."}
        assert compare(items(5), config, tmp_path / "verdicts.sqlite") == [
            Verdict("i0", "sw", None, unparsed=True, error="unparsed"),
            *verdicts[1:],
        ]
        assert len(stub.shown) == 14
    counts = tally(verdicts)["sw"]
    assert (counts.items, counts.failed, counts.unparsed) == (4, 1, 1)
    assert verdicts[0].failed
    assert verdicts[0].unparsed
    assert "A good question" in verdicts[0].error


def test_empty_and_equal_answers_are_not_asked() -> None:
    pairs = [("", "b"), ("a", " \n"), ("", ""), ("same", "same")]
    asked = [Item(str(n), "es", "Q", a, b) for n, (a, b) in enumerate(pairs)]
    with judge_server(always_first) as stub:
        verdicts = compare(asked, stub.config(), None)
        assert stub.shown == []
    assert [v.preference for v in verdicts] == [0.0, 1.0, 0.5, 0.5]
    counts = tally(verdicts)["es"]
    assert (counts.items, counts.wins, counts.losses, counts.ties, counts.unasked) == (4, 1, 1, 2, 4)
    assert counts.inconsistent == 0


def test_reasoned_verdict_may_be_a_tie() -> None:
    def behave(shown: Shown) -> Says:
        verdict = "tie" if shown.instruction == "Question 0?" else longer(shown).words
        return Says(f"<think>\nVerdict: A\n</think>\nBoth have merit. Verdict: unclear?\n\n**Verdict: {verdict}**")

    with judge_server(behave) as stub:
        verdicts = compare(items(3), stub.config(template="reasoned", max_tokens=512), None)
        assert "logprobs" not in stub.shown[0].body
        assert stub.shown[0].body["max_tokens"] == 512
    assert verdicts[0].tie
    assert not verdicts[0].inconsistent
    assert [v.preference for v in verdicts[1:]] == [float(len(i.answer_a) > len(i.answer_b)) for i in items(3)[1:]]


def test_server_that_is_down_is_named_within_seconds() -> None:
    config = JudgeConfig(base_url="http://127.0.0.1:9/v1", model="stub")
    for use in (lambda: check_endpoint(config), lambda: compare(items(3), config, None)):
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"^judge\.base_url: http://127\.0\.0\.1:9/v1 cannot be reached"):
            use()
        assert time.monotonic() - begun < 3


def test_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    """Down in the middle: the share of failures ends the call, and what was answered is not asked again."""
    asked = items(30)
    with judge_server(longer) as stub:
        port = int(stub.url.rsplit(":", 1)[1].split("/")[0])

        def behave(shown: Shown) -> Says:
            return longer(shown) if shown.number <= 25 else Says("down for repair", status=503)

        stub.behaviour = behave
        config = stub.config(max_retries=1, max_concurrency=4)
        with pytest.raises(UserError) as error:
            compare(asked, config, tmp_path / "verdicts.sqlite")
    message = str(error.value)
    assert message.startswith("judge.max_failed_share: 4 of 30 comparisons got no verdict, more than 10%")
    assert "503" in message
    assert "down for repair" in message
    assert "keeps the answers so far: start again" in message
    with judge_server(longer, port) as stub:
        verdicts = compare(asked, config, tmp_path / "verdicts.sqlite")
        assert len(stub.shown) == 60 - 25
    assert not any(v.failed or v.inconsistent for v in verdicts)


def test_server_that_was_there_is_waited_for(tmp_path: Path) -> None:
    """Refused connections in the middle of a run are tried again with back-off, not a mistake in the address."""
    with judge_server(longer) as stub:
        config, port = stub.config(max_retries=5), int(stub.url.rsplit(":", 1)[1].split("/")[0])
    with Judge(config, None, reached=True) as judge, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(judge.compare, items(1))
        time.sleep(0.3)
        with judge_server(longer, port):
            assert not waiting.result(30)[0].failed
    impatient = config.model_copy(update={"max_retries": 1})
    with Judge(impatient, None, reached=True) as judge, pytest.raises(UserError, match=r"1 of 3 .*connection"):
        judge.compare(items(3))


def test_few_failures_are_counted_and_left_out(tmp_path: Path) -> None:
    def behave(shown: Shown) -> Says:
        return Says("the content filter says no", status=400) if shown.instruction == "Question 4?" else longer(shown)

    usages: list[Usage] = []
    with judge_server(behave) as stub:
        cache = tmp_path / "verdicts.sqlite"
        verdicts = compare(items(10), stub.config(), cache, watch=usages.append)
        again = compare(items(10), stub.config(), cache)
        assert len(stub.shown) == 20 + 2, "a failure is not kept, and a refusal is not asked a second time"
    assert [v.id for v in verdicts if v.failed] == ["i4"]
    assert "content filter" in verdicts[4].error
    assert again == verdicts
    assert (usages[-1].total, usages[-1].done, usages[-1].failed, usages[-1].in_flight) == (20, 20, 2, 0)


def test_slow_server_is_given_up_and_bounded(tmp_path: Path) -> None:
    def behave(shown: Shown) -> Says:
        return Says("A", after_s=1.0 if shown.instruction == "Question 0?" else 0.0)

    with judge_server(behave) as stub:
        config = stub.config(timeout_s=0.2, max_retries=1, max_failed_share=0.5)
        begun = time.monotonic()
        verdicts = compare(items(3), config, None)
        assert time.monotonic() - begun < 3
        assert "no answer within judge.timeout_s 0.2 s" in verdicts[0].error
        assert not verdicts[1].failed
        with pytest.raises(UserError, match=r"judge\.base_url.*no answer within 0\.2 s"):
            stub.behaviour = lambda shown: Says("A", after_s=1.0)
            check_endpoint(config)
        with pytest.raises(UserError, match=r"judge\.max_concurrency: 6 of 6 questions are open after 0\.3 s"):
            compare(items(3), stub.config(max_concurrency=2), None, deadline_s=0.3)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str) -> None:
    def behave(shown: Shown) -> Says:
        if shown.number > 1:
            return longer(shown)
        after = "1" if form == "seconds" else formatdate(time.time() + 2.5, usegmt=True)
        return Says("slow down", status=429, headers={"retry-after": after})

    with judge_server(behave) as stub:
        (verdict,) = compare(items(1), stub.config(max_concurrency=1), None)
        wait = stub.times[1] - stub.times[0]
    assert not verdict.failed
    # A date has whole seconds.
    low, high = (1.0, 1.7) if form == "seconds" else (1.3, 3.4)
    assert low <= wait < high
    print(f"Retry-After by {form}: waited {wait:.2f} s")


def test_wait_beyond_the_deadline_is_not_begun() -> None:
    with judge_server(lambda shown: Says("later", status=429, headers={"retry-after": "3600"})) as stub:
        begun = time.monotonic()
        (verdict,) = compare(items(1), stub.config(max_failed_share=1), None)
        assert time.monotonic() - begun < 2
    assert verdict.failed
    assert "429" in verdict.error


def test_errors_of_the_server_are_tried_again() -> None:
    def behave(shown: Shown) -> Says:
        return longer(shown) if shown.number > 3 else Says("oops", status=500)

    with judge_server(behave) as stub:
        verdicts = compare(items(2), stub.config(max_concurrency=1), None)
        assert len(stub.shown) == 7
    assert not any(v.failed for v in verdicts)


def test_wrong_key_is_a_users_mistake_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-1")
    with judge_server(lambda shown: Says("Incorrect API key provided: sk-secret-1", status=401)) as stub:
        for use in (lambda c: check_endpoint(c), lambda c: compare(items(3), c, None)):
            with pytest.raises(
                UserError, match=r"judge\.api_key_env: .* 401 .*put a valid key into \$JUDGE_KEY"
            ) as error:
                use(stub.config(api_key_env="JUDGE_KEY"))
            assert "sk-secret-1" not in str(error.value)
        assert set(stub.authorization) == {"Bearer sk-secret-1"}
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match=r"judge\.api_key_env: the variable JUDGE_KEY is not set"):
        compare(items(1), stub.config(api_key_env="JUDGE_KEY"), None)


def test_wrong_address_or_model() -> None:
    with judge_server(lambda shown: Says("The model `stub` does not exist.", status=404)) as stub:
        with pytest.raises(UserError, match=r"judge\.model: .*does not exist.* no model 'stub'"):
            check_endpoint(stub.config())
        with pytest.raises(UserError, match=r"judge\.model: .*no such page.*judge\.base_url"):
            check_endpoint(stub.config(base_url=stub.url.removesuffix("/v1")))
        stub.behaviour = lambda shown: Says("busy", status=503)
        check_endpoint(stub.config())
