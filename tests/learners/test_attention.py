"""Attention by segment equals attention under a dense mask, and looks at nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from learners import attention
from learners.attention import PackedMask, Shared, Split, layout_of, packed_attention
from learners.logprobs import LogprobModel
from learners.packing import PackedBatch, Segment, pack
from tests.kits.learner import make_model
from tests.learners.test_packing import packed_logprobs, padded_logprobs, segment

SHAPES = [(12, 9, 4), (1, 1, 1), (20, 1, 14), (5, 17), (9, 3, 8, 2), (30, 25, 20), (3, 2, 1), (2, 11, 12)]


@pytest.fixture
def split_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take even the shortest segment apart."""
    monkeypatch.setattr(attention, "_PAIRS_PER_CALL", -(10**9))


def flat(shapes: list[tuple[int, ...]]) -> PackedBatch:
    generator = torch.Generator().manual_seed(3)
    (batch,) = pack([segment(generator, *shape) for shape in shapes], 10**6)
    return batch.without_padding()


def run(batch: PackedBatch, dtype: torch.dtype, by_segment: bool) -> list[Tensor]:
    """Output and gradients, 6 heads over 2 keys, of width 16."""
    generator = torch.Generator().manual_seed(5)
    query, key, value = (
        torch.randn(1, heads, batch.tokens, 16, generator=generator).to(dtype).requires_grad_() for heads in (6, 2, 2)
    )
    weights = torch.randn(1, batch.tokens, 6, 16, generator=generator).to(dtype)
    if by_segment:
        out, _ = packed_attention(torch.nn.Module(), query, key, value, PackedMask.of(layout_of(batch)), scaling=0.3)
    else:
        keys, values = key.repeat_interleave(3, 1), value.repeat_interleave(3, 1)
        mask = batch.attention_mask()
        out = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3).transpose(1, 2)
    (out * weights).sum().backward()
    gradients = [one.grad for one in (query, key, value) if one.grad is not None]
    assert len(gradients) == 3
    return [out.detach(), *gradients]


@pytest.mark.usefixtures("split_all")
@pytest.mark.parametrize("shapes", [SHAPES, [(40, 300, 270, 5), (2, 600)]], ids=["short", "long"])
def test_output_and_gradients_are_those_of_a_dense_mask(shapes: list[tuple[int, ...]]) -> None:
    batch = flat(shapes)
    assert all(isinstance(unit, Split) for unit in layout_of(batch))
    exact = run(batch, torch.float64, by_segment=False)
    for ours, theirs in zip(run(batch, torch.float64, by_segment=True), exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)
    # bfloat16 multiplies 8-bit numbers: no further from float64 than a few of their steps, on the scale of the values.
    for ours, theirs in zip(run(batch, torch.bfloat16, by_segment=True), exact, strict=True):
        assert float((ours.double() - theirs).abs().max()) < 0.03 * float(theirs.abs().max())


@pytest.mark.usefixtures("split_all")
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
def test_a_model_that_takes_segments_apart_equals_padded_rows(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    segments = [segment(generator, *shape) for shape in SHAPES]
    model = make_model(kind)

    def gradients(values: list[list[Tensor]]) -> dict[str, Tensor]:
        model.zero_grad()
        sum((number + 1) * one.sum() for number, row in enumerate(values) for one in row).backward()  # type: ignore[union-attr]
        return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    ours = packed_logprobs(LogprobModel(model, chunk=7), segments, 64)
    theirs = padded_logprobs(model, segments)
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    by_segment, plain = gradients(ours), gradients(theirs)
    scale = max(float(value.abs().max()) for value in plain.values())
    for name, value in plain.items():
        torch.testing.assert_close(by_segment[name], value, atol=2e-5 * scale, rtol=0, msg=name)


def test_long_segments_are_taken_apart_and_short_ones_share_a_mask() -> None:
    batch = flat([(100, 250, 250), (100, 200, 200), *[(10, 8, 8)] * 40])
    layout = layout_of(batch)
    assert [type(unit) for unit in layout] == [Split, Split, *[Shared] * 10]
    assert [unit.start for unit in layout] == [0, *(unit.stop for unit in layout[:-1])]
    assert layout[-1].stop == batch.tokens
    assert layout[0] == Split(0, 100, 349, ((349, 598),))
    assert [unit.stop - unit.start for unit in layout[2:]] == [96] * 10


def test_a_window_that_a_segment_exceeds_keeps_its_mask() -> None:
    batch = flat([(100, 250, 250), (10, 120, 120)])
    assert [type(unit) for unit in layout_of(batch, window=349)] == [Split, Split]
    assert [type(unit) for unit in layout_of(batch, window=348)] == [Shared, Split]


def test_a_segment_of_a_prompt_and_a_single_token() -> None:
    (batch,) = pack([Segment((7, 8, 9), ((5,),))], 64)
    (unit,) = layout_of(batch.without_padding())
    assert (unit.start, unit.stop) == (0, 3)
