"""Token ids as they are kept and as they travel; that an answer is trained on by those that were sampled."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from configs.schema import LearnerConfig, ModelConfig
from learners.distributed import single_process
from learners.encode import ChatEncoder, same_vocabulary
from learners.session import LearnerSession
from rollout.records import Pair, SampleGroup
from rollout.store import Store
from rollout.token_ids import TokenIds
from tests.kits.learner import make_folder, make_pairs
from tests.kits.rollout import candidate
from tests.rollout.test_store import pair


def test_they_are_what_a_tuple_is() -> None:
    for ids in ((), (0,), (7, 2**32 - 1, 0, 300)):
        kept = TokenIds(ids)
        assert kept == ids
        assert ids == kept
        assert kept == TokenIds(list(ids)) == pickle.loads(pickle.dumps(kept)) == TokenIds.from_bytes(kept.data)
        assert hash(kept) == hash(ids)
        assert (len(kept), list(kept), tuple(reversed(kept))) == (len(ids), list(ids), ids[::-1])
        assert kept[1:] == ids[1:]
    assert TokenIds((1, 2)) != (1, 3)
    assert TokenIds((1, 2)) != [1, 2]
    assert (TokenIds((5, 6))[-1], 6 in TokenIds((5, 6)), TokenIds((5, 6)).index(6)) == (6, True, 1)
    assert TokenIds((1, 258)).data == b"\1\0\0\0\2\1\0\0"
    for wrong in ([-1], [2**32]):
        with pytest.raises(OverflowError):
            TokenIds(wrong)
    with pytest.raises(ValueError, match="5 bytes"):
        TokenIds.from_bytes(b"12345")
    with pytest.raises(TypeError):
        TokenIds.from_bytes("1234")  # type: ignore[arg-type]


def test_they_take_four_bytes_each() -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [TokenIds(range(1000 * n, 1000 * n + 200)) for n in range(500)]
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 500 * (200 * 4 + 200)
    assert len(pickle.dumps(kept[7])) < 200 * 4 + 120


def pairs_of(store: Store, round: int) -> list[Pair]:
    """What a round is trained on, which must be pairs."""
    return [one for one in store.examples(round) if isinstance(one, Pair)]


def groups_of(store: Store, round: int) -> list[SampleGroup]:
    """What a round is trained on, which must be groups."""
    return [one for one in store.examples(round) if isinstance(one, SampleGroup)]


def test_a_round_is_trained_on_the_tokens_that_were_sampled(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite", "d") as store:
        assert store.begin_round(1)
        assert store.begin_round(1)
        answers = [candidate("p0", sample=0), replace(candidate("p0", sample=1), token_ids=TokenIds((9, 8, 7)))]
        told = candidate("p1", sample=1, source="translation", origin="en", translation="ok")
        store.put_chunk("c1", 1, "answer", [*answers, candidate("p1", sample=0), told])
        anchor = pair("p9", chosen_key=None, rejected_key=None, source="anchor")
        store.put_pairs(1, [pair("p0"), pair("p1", rejected_key=told.key), anchor])
        first, second, third = pairs_of(store, 1)
        assert store.pairs(1) == [first, second, third]
        assert (first.chosen_ids, first.rejected_ids) == (answers[0].token_ids, (9, 8, 7))
        assert (second.chosen_ids, second.rejected_ids) == (candidate("p1").token_ids, None), "a translation is text"
        assert (third.chosen_ids, third.rejected_ids) == (None, None)
        store.put_groups(
            2, [SampleGroup("g", 2, "p0", "es", "q", ("a", "b"), (1.0, 0.0), 0, (told.key, answers[1].key))]
        )
        # A round that an earlier version began has chunks and no mark: it stays with the texts.
        assert not store.begin_round(2)
        assert groups_of(store, 2)[0].completion_ids == ()
        store.put_pairs(3, [])
        assert store.begin_round(4)
        store.put_groups(4, [replace(store.groups(2)[0], id="h", round=4)])
        assert groups_of(store, 4)[0].completion_ids == (None, (9, 8, 7))
        assert store.begin_round(5)
        store.put_pairs(5, [replace(pair("p5"), round=5)])
        with pytest.raises(UserError, match=r"table candidates, row \(.*p5.*\): it cannot be found; .* --from-round 0"):
            store.examples(5)


def test_the_learner_takes_them_where_encoding_the_text_gives_others(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "llama")
    encoder = ChatEncoder(folder)
    # One token a byte here, so that half a character, decoded and encoded again, is three tokens for one.
    (whole, *_), text_ids = make_pairs(1), encoder.completion_ids("�")
    half = [encoder.completion_ids("ñ")[0], encoder.end_of_turn_id]
    assert encoder.decode(half[:1]) == "�"
    assert text_ids != half
    given = replace(whole, chosen="�", chosen_ids=TokenIds(half))
    group = SampleGroup("g", 1, "p", "es", given.prompt, ("�", "�"), (1.0, 0.0), 0, (), None, (given.chosen_ids, None))
    model = ModelConfig(policy=folder)
    expected = {}
    with single_process():
        session = LearnerSession(LearnerConfig(), model, 7, folder)
        (by_ids,) = session.reference_logprobs(1, [given]).values()
        (by_text,) = session.reference_logprobs(1, [replace(given, chosen_ids=None)]).values()
        policy = session.policy.double().requires_grad_(False)
        prompt = encoder.prompt_ids(given.prompt)
        for name, ids in (("ids", half), ("text", text_ids)):
            logprobs = policy(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
            expected[name] = float(sum(logprobs[len(prompt) + n - 1, token] for n, token in enumerate(ids)))
        session.close()
    assert by_ids[0] == pytest.approx(expected["ids"], abs=1e-4)
    assert by_text[0] == pytest.approx(expected["text"], abs=1e-4)
    assert by_ids[1] == by_text[1]
    with single_process():
        session = LearnerSession(LearnerConfig(objective="rloo"), model, 7, folder)
        ((one, other),) = session.reference_logprobs(1, [group]).values()
        session.close()
    assert (one, other) == (pytest.approx(expected["ids"], abs=1e-4), pytest.approx(expected["text"], abs=1e-4))


def test_another_models_tokens_are_told(tmp_path: Path) -> None:
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "other")
    assert same_vocabulary(one, other)
    tokenizer = ChatEncoder(other).tokenizer
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other)
    assert not same_vocabulary(one, other)
