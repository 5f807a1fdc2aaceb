"""Packing: its layout, and that it changes nothing that a model computes."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learners import logprobs
from learners.logprobs import LogprobHead, LogprobModel
from learners.packing import ROW_TOKENS, Segment, pack
from tests.kits.learner import make_model, sum_logprobs

TOKENS = st.lists(st.integers(6, 261), min_size=1, max_size=30).map(tuple)
SEGMENTS = st.lists(
    st.builds(Segment, TOKENS, st.lists(TOKENS, min_size=1, max_size=4).map(tuple)), min_size=1, max_size=12
)


def segment(generator: torch.Generator, prompt: int, *completions: int) -> Segment:
    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(6, 262, (count,), generator=generator).tolist())

    return Segment(ids(prompt), tuple(ids(count) for count in completions))


@pytest.fixture
def segments() -> list[Segment]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(12, 9, 4), (1, 1, 1), (20, 1, 14), (5, 17), (9, 3, 8, 2), (30, 25, 20), (3, 2, 1), (2, 11, 12)]
    return [segment(generator, *shape) for shape in shapes]


def padded_logprobs(model: torch.nn.Module, segments: list[Segment]) -> list[list[Tensor]]:
    """The plain way: one padded row a completion, through the model's own forward."""
    rows = [(s.prompt_ids, c) for s in segments for c in s.completions]
    length = max(len(p) + len(c) for p, c in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, (prompt, completion) in enumerate(rows):
        ids[row, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        mask[row, : len(prompt) + len(completion)] = 1
    logprobs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
    picked = logprobs[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    flat = iter(picked[row, len(p) - 1 : len(p) + len(c) - 1] for row, (p, c) in enumerate(rows))
    return [[next(flat) for _ in s.completions] for s in segments]


def packed_logprobs(model: LogprobModel, segments: list[Segment], budget: int) -> list[list[Tensor]]:
    found: list[list[Tensor]] = [[torch.empty(0)] * len(s.completions) for s in segments]
    for batch in pack(segments, budget):
        values = model(batch)
        for span in batch.spans:
            found[span.segment][span.completion] = values[span.start : span.stop]
    return found


@settings(deadline=None, max_examples=60)
@given(segments=SEGMENTS, budget=st.integers(1, 200))
def test_every_completion_token_is_predicted_exactly_once(segments: list[Segment], budget: int) -> None:
    batches = pack(segments, budget)
    seen = set()
    for batch in batches:
        inputs = batch.input_ids.flatten()
        positions = batch.position_ids.flatten()
        for span in batch.spans:
            assert (span.segment, span.completion) not in seen
            seen.add((span.segment, span.completion))
            one = segments[span.segment]
            completion = one.completions[span.completion]
            assert tuple(batch.targets[span.start : span.stop].tolist()) == completion
            at = batch.predict_at[span.start : span.stop]
            # The first token is predicted by the prompt's last, every other by its predecessor.
            assert inputs[at].tolist() == [one.prompt_ids[-1], *completion[:-1]]
            first = len(one.prompt_ids) - 1
            assert positions[at].tolist() == list(range(first, first + len(completion)))
    assert seen == {(i, k) for i, one in enumerate(segments) for k in range(len(one.completions))}
    assert sum(batch.tokens for batch in batches) == sum(one.tokens for one in segments)


@settings(deadline=None, max_examples=60)
@given(segments=SEGMENTS, budget=st.integers(1, 200))
def test_budget_holds_but_for_a_single_larger_segment(segments: list[Segment], budget: int) -> None:
    for batch in pack(segments, budget):
        if batch.input_ids.numel() > budget:
            assert len({span.segment for span in batch.spans}) == 1
    assert [b.spans for b in pack(segments, budget)] == [b.spans for b in pack(segments, budget)]


@settings(deadline=None, max_examples=8)
@given(segments=SEGMENTS)
def test_mask_lets_a_token_see_its_prompt_and_its_own_completion_only(segments: list[Segment]) -> None:
    for batch in pack(segments, 128):
        mask = batch.attention_mask()[:, 0]
        rows, length = batch.input_ids.shape
        for row in range(rows):
            for query in range(length):
                expected = {query}
                if batch.segment_ids[row, query] >= 0:
                    for key in range(query):
                        same = batch.segment_ids[row, key] == batch.segment_ids[row, query]
                        branch = batch.branch_ids[row, key]
                        if same and (branch == 0 or branch == batch.branch_ids[row, query]):
                            expected.add(key)
                assert set(mask[row, query].nonzero()[:, 0].tolist()) == expected


def test_rows_are_short_whatever_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = pack([segment(generator, 40, 30, 30) for _ in range(60)], 4096)
    assert max(batch.input_ids.shape[1] for batch in batches) <= ROW_TOKENS
    assert len(batches) == 2


@settings(deadline=None, max_examples=60)
@given(segments=SEGMENTS, budget=st.integers(1, 200))
def test_completions_over_the_budget_are_laid_out_with_copies_of_their_prompt(
    segments: list[Segment], budget: int
) -> None:
    seen = []
    for batch in pack(segments, budget, whole=False):
        inputs = batch.input_ids.flatten()
        for span in batch.spans:
            seen.append((span.segment, span.completion))
            one = segments[span.segment]
            completion = one.completions[span.completion]
            assert tuple(batch.targets[span.start : span.stop].tolist()) == completion
            assert inputs[batch.predict_at[span.start : span.stop]].tolist() == [one.prompt_ids[-1], *completion[:-1]]
        if batch.input_ids.numel() > budget:
            assert len(batch.spans) == 1  # nothing is left to lay out elsewhere
    assert sorted(seen) == [(i, k) for i, one in enumerate(segments) for k in range(len(one.completions))]


def test_ten_long_answers_stay_within_the_budget_and_score_alike() -> None:
    generator = torch.Generator().manual_seed(2)
    long = [segment(generator, 29, *[240] * 10), segment(generator, 12, 9, 4)]
    batches = pack(long, 600, whole=False)
    assert long[0].tokens == 29 + 10 * 239  # which was one row
    assert max(batch.input_ids.numel() for batch in batches) <= 600
    assert sum(batch.tokens for batch in batches) == 5 * (29 + 2 * 239) + long[1].tokens
    model = make_model("llama")
    pieces, together = (sum_logprobs(model, long, budget, chunk=64) for budget in (600, 10_000))
    for ours, theirs in zip(pieces, together, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3, rel=1e-6)


@pytest.mark.parametrize(("prompt", "completions"), [((), ((1,),)), ((1,), ()), ((1,), ((1,), ()))])
def test_empty_parts_are_refused(prompt: tuple[int, ...], completions: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Segment(prompt, completions)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("budget", [1, 64, 4096])
def test_packed_equals_padded(kind: str, budget: int, segments: list[Segment]) -> None:
    model = make_model(kind)
    packed = packed_logprobs(LogprobModel(model, chunk=7), segments, budget)
    for ours, theirs in zip(packed, padded_logprobs(model, segments), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
def test_gradients_of_a_shared_prompt_equal_those_of_separate_rows(kind: str, segments: list[Segment]) -> None:
    model = make_model(kind)

    def gradients(values: list[list[Tensor]]) -> dict[str, Tensor]:
        model.zero_grad()
        weights = torch.linspace(-1, 2, sum(len(row) for row in values))
        flat = [one for row in values for one in row]
        sum(w * one.sum() for w, one in zip(weights, flat, strict=True)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    shared = gradients(packed_logprobs(LogprobModel(model, chunk=5), segments, 4096))
    separate = gradients(padded_logprobs(model, segments))
    scale = max(float(g.abs().max()) for g in separate.values())
    assert scale > 0.1
    assert len(shared) == len(separate) == len(list(model.parameters()))
    for name, value in separate.items():
        torch.testing.assert_close(shared[name], value, atol=2e-5 * scale, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_order_and_neighbours_do_not_matter(dtype: torch.dtype, segments: list[Segment]) -> None:
    model = make_model("llama")
    torch.nn.Module.to(model, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.6
    straight = sum_logprobs(model, segments, 256, chunk=16)
    backwards = sum_logprobs(model, segments[::-1], 256, chunk=16)[::-1]
    alone = [sum_logprobs(model, [one], 256, chunk=16)[0] for one in segments]
    for a, b, c in zip(straight, backwards, alone, strict=True):
        assert a == pytest.approx(b, abs=tolerance)
        assert a == pytest.approx(c, abs=tolerance)


def test_chunk_size_does_not_matter(segments: list[Segment]) -> None:
    model = make_model("gemma3")
    for a, b in zip(
        sum_logprobs(model, segments, 512, chunk=1),
        sum_logprobs(model, segments, 512, chunk=10_000),
        strict=True,
    ):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("chunk", "tile"), [(4, 28), (4, 10**6), (100, 77)])
def test_tiles_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, bias: bool, chunk: int, tile: int
) -> None:
    monkeypatch.setattr(logprobs, "_TILE", tile)
    monkeypatch.setattr(logprobs, "_LEAST_COLUMNS", 3)
    torch.manual_seed(0)
    output = torch.nn.Linear(8, 23, bias=bias)
    torch.nn.init.normal_(output.weight, std=2.0)
    hidden = torch.randn(11, 8, requires_grad=True)
    targets = torch.tensor([0, 22, 7, 6, 2, 3, 21, 11, 0, 13, 14])  # first and last column of blocks among them
    factor = torch.randn(11)
    inputs = [hidden, *output.parameters()]

    ours = LogprobHead(output, chunk, softcap)(hidden, targets)
    found = torch.autograd.grad((ours * factor).sum(), inputs)
    logits = output(hidden)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(found, torch.autograd.grad((expected * factor).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)

    output.requires_grad_(False)  # a frozen output layer costs no gradient of its own
    (alone,) = torch.autograd.grad((LogprobHead(output, chunk, softcap)(hidden, targets) * factor).sum(), [hidden])
    torch.testing.assert_close(alone, found[0])


def test_a_model_with_scaled_logits_is_refused() -> None:
    model = make_model("llama")
    plain = model.lm_head.forward
    model.lm_head.forward = lambda hidden: plain(hidden) / 3  # what Granite does
    from configs.errors import UserError

    with pytest.raises(UserError, match="not supported"):
        LogprobModel(model, 16)


@settings(deadline=None, max_examples=12)
@given(segments=SEGMENTS, budget=st.integers(1, 200), order=st.randoms(use_true_random=False))
def test_packed_and_shared_equals_one_plain_row_an_answer(segments: list[Segment], budget: int, order: Random) -> None:
    """Any lengths (one token too), any budget, any order of the segments."""
    model = make_model("llama")
    plain = [
        model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        for prompt, answer in [(s.prompt_ids, c) for s in segments for c in s.completions]
    ]
    expected = iter(plain)
    sums = {
        (number, k): next(expected).gather(1, torch.tensor(answer)[:, None]).sum().item()
        for number, one in enumerate(segments)
        for k, answer in enumerate(one.completions)
    }
    shuffled = list(range(len(segments)))
    order.shuffle(shuffled)
    found = sum_logprobs(model, [segments[number] for number in shuffled], budget, chunk=16)
    for number, row in zip(shuffled, found, strict=True):
        for k, value in enumerate(row):
            assert value == pytest.approx(sums[number, k], abs=1e-4, rel=1e-5)
