"""References that the sampler has computed already: when they are taken, and what is said of their difference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import LearnerConfig, ModelConfig
from learners.distributed import single_process
from learners.logprobs import segment_logprobs
from learners.sampler_reference import PROBED, Referenced, probe, sampled_logprobs
from learners.session import LearnerSession
from rollout.records import Example, Pair, SampleGroup
from rollout.sources import start_logprobs
from rollout.staleness import sampler_has_reference
from rollout.store import Store
from tests.kits.learner import make_folder, make_pairs
from tests.kits.rollout import candidate, make_config
from tests.rollout.test_store import pair

LEARNER = LearnerConfig(reference_logprobs="auto", pairs_per_step=6, tokens_per_micro_batch=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def session(folder: Path) -> Iterator[LearnerSession]:
    with single_process():
        made = LearnerSession(LEARNER, ModelConfig(policy=folder), 7, folder)
        yield made
        made.close()


def with_logprobs(session: LearnerSession, pairs: Sequence[Pair], error: float = 0.0) -> list[Pair]:
    """The pairs with what a sampler of the same weights would say, rejected answers' tokens off by ``error``."""
    found: list[Pair] = []
    for one in session._encode(pairs):
        assert isinstance(one.example, Pair)
        engine: Any = session.engine
        ((chosen, rejected),) = segment_logprobs(engine, [one.segment], 512, session.device)
        found.append(
            replace(
                one.example,
                chosen_logprobs=chosen.numpy().astype("<f4").tobytes(),
                rejected_logprobs=(rejected.numpy() + error).astype("<f4").tobytes(),
            )
        )
    return found


def referenced(session: LearnerSession, examples: Sequence[Example], origin: str = "auto") -> Referenced:
    session.learner = LEARNER.model_copy(update={"reference_logprobs": origin})
    return session.referenced(1, examples)


def test_the_samplers_are_taken_where_they_are_the_learners(session: LearnerSession) -> None:
    pairs = make_pairs(14)
    own = session.reference_logprobs(1, pairs)
    given = with_logprobs(session, pairs)
    given[3] = replace(given[3], chosen_logprobs=None)  # older weights, another prompt, an anchor, a translation
    given[5] = replace(given[5], rejected_logprobs=(given[5].rejected_logprobs or b"")[:-4])  # not one a token
    found = referenced(session, given)
    assert found.mismatch is not None
    assert found.mismatch.used
    assert found.mismatch.examples == PROBED
    assert found.mismatch.most < 1e-5
    assert found.mismatch.loss == pytest.approx(0, abs=1e-6)
    assert found.values.keys() == own.keys()
    for one in given:
        assert found.values[one.id] == pytest.approx(own[one.id], abs=1e-3)
        sampled = sampled_logprobs(next(e for e in session._encode(given) if e.id == one.id))
        if one.id in (given[3].id, given[5].id):
            assert sampled is None
        else:
            assert sampled is not None
            assert found.values[one.id] == tuple(float(part.sum(dtype=np.float64)) for part in sampled)
    assert referenced(session, given, "learner") == Referenced(own)
    assert referenced(session, pairs) == Referenced(own), "nothing was sampled"


def test_auto_falls_back_and_the_sampler_is_taken_where_it_is_asked_for(session: LearnerSession) -> None:
    pairs = make_pairs(14)
    own = session.reference_logprobs(1, pairs)
    for error, used in ((0.0004, True), (0.03, False)):
        given = with_logprobs(session, pairs, error)
        tokens = [(len(one.segment.completions[0]), len(one.segment.completions[1])) for one in session._encode(pairs)]
        found = referenced(session, given)
        assert found.mismatch is not None
        assert found.mismatch.used is used
        shares = [b / (a + b) for a, b in tokens]
        assert min(shares) * error <= found.mismatch.mean <= max(shares) * error + 1e-6
        assert found.mismatch.most == pytest.approx(error, abs=1e-5)
        languages = found.mismatch.languages
        assert set(languages) == {one.language for one in pairs}
        assert all(row["kl"] == pytest.approx(row["mean"], abs=1e-5) for row in languages.values())
        assert (found.values == own) is not used
        forced = referenced(session, given, "sampler")
        assert forced.mismatch is not None
        assert forced.mismatch.used
        assert forced.values != own
    # By the loss alone: half a tenth of a nat a token is too much for ln 2, well below the bound for tokens.
    given = with_logprobs(session, pairs, 0.01)
    found = referenced(session, given)
    assert found.mismatch is not None
    assert found.mismatch.mean < 0.02
    off = found.mismatch.loss or 0.0
    probed = probe(session._steps(session._encode(given), 1, 0), {one.id: 1 for one in given})
    margins = [0.01 * len(one.segment.completions[1]) for one in probed]
    expected = sum(math.log1p(math.exp(-0.1 * margin)) for margin in margins) / len(margins) - math.log(2)
    assert off == pytest.approx(abs(expected), abs=1e-5)
    assert found.mismatch.used is (off <= 1e-3)


def test_one_of_each_language_is_compared(session: LearnerSession) -> None:
    pairs = [replace(one, language=f"l{number}") for number, one in enumerate(make_pairs(11))]
    found = referenced(session, with_logprobs(session, pairs))
    assert found.mismatch is not None
    assert found.mismatch.examples == len(found.mismatch.languages) == 11


def test_groups(folder: Path) -> None:
    one = make_pairs(1)[0]
    with single_process():
        session = LearnerSession(LEARNER, ModelConfig(policy=folder), 7, folder)
        (whole,) = with_logprobs(session, [one])
        session.close()
        assert isinstance(whole, Pair)
        group = SampleGroup(
            "g", 1, "p", "es", one.prompt, (one.chosen, one.rejected), (1.0, 0.0), 0,
            completion_logprobs=(whole.chosen_logprobs, whole.rejected_logprobs),
        )  # fmt: skip
        session = LearnerSession(
            LEARNER.model_copy(update={"objective": "rloo"}), ModelConfig(policy=folder), 7, folder
        )
        found = session.referenced(1, [group])
        assert found.mismatch is not None
        assert (found.mismatch.used, found.mismatch.loss) == (True, None)
        assert session.referenced(1, [replace(group, completion_logprobs=())]).mismatch is None
        session.close()


def test_which_answers_have_the_reference(tmp_path: Path) -> None:
    answer = replace(candidate("p0", round=3, weight_version=2), logprobs=b"1234")
    example = replace(pair("p0"), round=3)
    assert start_logprobs(answer, example) == b"1234"
    for changed in (
        replace(answer, weight_version=1),
        replace(answer, key=replace(answer.key, origin="en", source="translation")),
        replace(answer, key=replace(answer.key, round=2)),
        replace(answer, key=replace(answer.key, language="en", origin="en")),
    ):
        assert start_logprobs(changed, example) is None
    auto = {"learner__reference_logprobs": "auto"}
    assert sampler_has_reference(make_config(**auto), 2)
    assert not sampler_has_reference(make_config(), 2)
    assert not sampler_has_reference(make_config(**auto, rollout__stop=["###"]), 2)
    assert not sampler_has_reference(make_config(**auto, learner__reference="initial"), 1)
    assert not sampler_has_reference(
        make_config(**auto, schedule__sync_every=2, schedule__max_staleness=1, learner__keep_checkpoints=4), 2
    )
    assert sampler_has_reference(
        make_config(**auto, schedule__sync_every=2, schedule__max_staleness=1, learner__keep_checkpoints=4), 3
    )
    with Store.open(tmp_path / "store.sqlite", "d") as store:
        store.begin_round(1)
        rows = [replace(candidate("p0", sample=n), logprobs=bytes([n]) * 12) for n in (0, 1)]
        store.put_chunk("c", 1, "answer", rows)
        store.put_pairs(1, [pair("p0")])
        (found,) = store.examples(1)
        assert isinstance(found, Pair)
        assert (found.chosen_logprobs, found.rejected_logprobs) == (bytes(12), b"\1" * 12)
        store.put_reference_logprobs(1, {found.id: (-1.0, -2.0)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner__reference": "initial"}, "set reference to previous_round"),
        ({"schedule__max_staleness": 1}, "schedule.max_staleness to 0"),
        ({"rollout__stop": ["###"]}, "answers that rollout.stop ends"),
        ({"learner__objective": "simpo"}, "not used by objective simpo"),
    ],
)
def test_a_sampler_that_cannot_have_it_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(learner__reference_logprobs="sampler", **changes)
