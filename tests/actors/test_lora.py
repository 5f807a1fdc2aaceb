"""Adapters in a vLLM engine and in a reward actor: they compute what Transformers does on merged weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engine.requests import EngineRequest
from actors.engine.vllm_engine import VllmEngine
from actors.reward.log_ratios import ScoringModels
from actors.runtime.health import State, SyncError
from configs.schema import LoraConfig
from learners import lora
from learners.logprobs import LogprobModel, segment_logprobs
from learners.packing import Segment
from learners.weights import Piece, WeightsManifest, checksum, dtype_name, to_numpy
from tests.kits.actors import Published, small_config
from tests.kits.tiny import build_tiny_model

LORA = LoraConfig(rank=4, alpha=8, publish="adapter")


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A policy with a random adapter: what a learner publishes of it, and the same as a model without adapters."""

    published: Published
    merged: torch.nn.Module
    tensors: dict[str, torch.Tensor]


@torch.no_grad()
def adapted(folder: Path, version: int, seed: int) -> Adapted:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    layers = lora.inject(model, LORA, seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        layer.b.copy_(torch.randn(layer.b.shape, generator=generator) * 0.2)
    tensors: dict[str, torch.Tensor] = {}
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    for name, layer in layers.items():
        tensors |= {n: p.detach().clone() for n, p in zip(lora.tensor_names(name), (layer.a, layer.b), strict=True)}
        weight = merged.get_parameter(f"{name}.weight")
        weight.copy_(Piece(name, weight, layer).value())
    names = tuple(sorted(tensors))
    ids = tuple(range(7, 31))
    ((scores,),) = segment_logprobs(LogprobModel(model, 64), [Segment(ids[:1], (ids[1:],))], 64, torch.device("cpu"))
    manifest = WeightsManifest(
        version,
        checksum(tensors),
        names,
        tuple(dtype_name(tensors[n]) for n in names),
        tuple(tuple(tensors[n].shape) for n in names),
        ids,
        tuple(scores.tolist()),
    )
    return Adapted((manifest, to_numpy(tensors)), merged, tensors)


def prompts(count: int) -> list[EngineRequest]:
    generator = torch.Generator().manual_seed(0)
    rows = [(1, *torch.randint(5, 512, (45,), generator=generator).tolist()) for _ in range(count)]
    return [EngineRequest(row, 0.0, 1.0, -1, 16, 0) for row in rows]


@torch.no_grad()
def greedy(model: Any, requests: list[EngineRequest]) -> list[tuple[int, ...]]:
    """Greedy tokens of Transformers, up to and including the end of turn."""
    outs = []
    for request in requests:
        ids = torch.tensor([request.prompt_ids])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        outs.append(tuple(out[0, ids.shape[1] :].tolist()))
    return outs


@pytest.mark.vllm
def test_engine_follows_its_adapters(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base", tied=True, seed=1)
    first, second = adapted(base, 1, seed=1), adapted(base, 2, seed=2)
    start = tmp_path / "adapter"
    lora.write_adapter(start, first.tensors, LORA, base)
    requests = prompts(10)

    def tokens(engine: VllmEngine) -> list[tuple[int, ...]]:
        return [output.token_ids for output in engine.generate(requests)]

    engine = VllmEngine(base, "float32", 256, 0.0625, 64, name="test", lora=LORA)
    plain = tokens(engine)
    assert plain == greedy(AutoModelForCausalLM.from_pretrained(base), requests)
    report = engine.update_weights(*first.published)
    assert report.version == engine.version == 1
    assert report.probe_error < 1e-4
    assert tokens(engine) == greedy(first.merged, requests)
    engine.update_weights(*second.published)
    assert tokens(engine) == greedy(second.merged, requests) != plain

    manifest, arrays = first.published
    broken = dict(arrays)
    broken.popitem()
    for wrong, what, message in (
        (dataclasses.replace(manifest, checksum="0" * 16), arrays, "checksum"),
        (manifest, broken, "without"),
        (dataclasses.replace(manifest, probe_logprob=second.published[0].probe_logprob), arrays, "probe"),
    ):
        with pytest.raises(SyncError, match=message):
            engine.update_weights(wrong, what)
        assert engine.health.state is State.STALE
    engine.update_weights(*second.published)
    assert tokens(engine) == greedy(second.merged, requests)

    replaced = VllmEngine(base, "float32", 256, 0.0625, 64, version=1, name="replaced", lora=LORA, adapter=start)
    assert tokens(replaced) == greedy(first.merged, requests)


def test_reward_policy_merges_a_published_adapter(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base", tied=True, seed=1)
    other = build_tiny_model(tmp_path / "other", tied=True, seed=2)
    config = small_config(
        tmp_path, base, other, learner={"lora": LORA.model_dump()}, reward={"reference": "previous_round"}
    )
    models = ScoringModels(config, base, other)
    first, second = adapted(base, 1, seed=1), adapted(base, 2, seed=2)
    assert models.update(*first.published, known=True) < 1e-4
    assert models.update(*second.published, known=True) < 1e-4
    for ours, theirs in ((models._policy, second.merged), (models._reference, first.merged)):
        assert ours is not None
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    manifest, arrays = first.published
    misshapen = {name: array[:1] for name, array in arrays.items()}
    with pytest.raises(SyncError, match="another shape"):
        models.update(manifest, misshapen, known=True)
