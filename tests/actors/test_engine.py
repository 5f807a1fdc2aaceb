"""The vLLM engine: repeatable generation and verified weight updates, with real engines on tiny models."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.engine.device import device_settings
from actors.engine.requests import EngineRequest
from actors.engine.verify import check_probe
from actors.engine.vllm_engine import VllmEngine
from actors.runtime.health import IllegalTransition, State, SyncError
from configs.errors import UserError
from learners.broadcast import buckets
from learners.encode import ChatEncoder
from learners.errors import BroadcastFailed
from learners.manifest import WeightsManifest
from tests.kits.actors import perturbed, publish, sending
from tests.kits.tiny import build_tiny_model

pytestmark = pytest.mark.vllm


def random_prompts(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Prompts of 40 to 79 tokens: longer than a block of the prefix cache, which is therefore used."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(40, 80, (count,), generator=generator).tolist()
    return [(1, *torch.randint(5, 512, (n - 1,), generator=generator).tolist()) for n in lengths]


def greedy(prompts: list[tuple[int, ...]], tokens: int = 16) -> list[EngineRequest]:
    """Greedy requests."""
    return [EngineRequest(p, 0.0, 1.0, -1, tokens, 0) for p in prompts]


def sampled(prompts: list[tuple[int, ...]], n: int, seed: int, tokens: int = 24) -> list[EngineRequest]:
    """n samples a prompt; stop tokens make lengths differ."""
    stops = tuple(range(5, 15))
    return [
        EngineRequest(p, 1.0, 1.0, -1, tokens, 1000 * seed + 10 * i + j, stops)
        for i, p in enumerate(prompts)
        for j in range(n)
    ]


@torch.no_grad()
def reference_greedy(model: Any, prompt: tuple[int, ...], tokens: int = 16) -> tuple[int, ...]:
    """Greedy tokens of Transformers, up to and including the end of turn."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tuple(out[0, ids.shape[1] :].tolist())


def test_an_engine_starts_on_a_gpu_of_which_others_hold_most() -> None:
    from vllm.config import CacheConfig
    from vllm.utils.mem_utils import MemorySnapshot
    from vllm.v1.worker.utils import request_memory

    half_taken = MemorySnapshot(free_memory=40 * 2**30, total_memory=80 * 2**30, device="cpu", auto_measure=False)
    with pytest.raises(ValueError, match="Free memory on device"):
        request_memory(half_taken, CacheConfig())
    request_memory(half_taken, CacheConfig(**device_settings(gpu=True)))


ALIVE: list[VllmEngine] = []  # the end of one engine takes what others of its process need


def engine_of(folder: Path, dtype: str = "float32", slots: int = 64) -> VllmEngine:
    ALIVE.append(VllmEngine(folder, dtype, 256, 0.0625, slots, name="test"))
    return ALIVE[-1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {k: build_tiny_model(root / k, tied=k == "tied", seed=1) for k in ("tied", "untied")}


@pytest.fixture(scope="module")
def engines(folders: dict[str, Path]) -> dict[str, VllmEngine]:
    # All that any test needs: engines of one process share vLLM's process groups, which the first to go takes along.
    return {k: engine_of(folders[k.split("-")[0]]) for k in ("tied", "untied", "untied-2")}


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_updated_engine_equals_transformers(engines, folders, kind) -> None:
    """Greedy tokens of 64 prompts that the engine had cached under the old weights."""
    engine, model = engines[kind], perturbed(folders[kind], seed=2)
    requests = greedy(random_prompts(64))
    before = engine.generate(requests)
    manifest, arrays = publish(model, version=1)
    report = engine.update_weights(manifest, arrays)
    after = [output.token_ids for output in engine.generate(requests)]
    expected = [reference_greedy(model, r.prompt_ids) for r in requests]
    assert sum(a == e for a, e in zip(after, expected, strict=True)) == 64
    assert sum(b.token_ids == a for b, a in zip(before, after, strict=True)) < 8
    assert report.version == engine.version == 1
    assert engine._llm.get_weight_version() == "1"
    assert report.probe_error < 1e-4


def test_prefix_cache_is_what_would_have_been_stale(engines, folders, monkeypatch) -> None:
    """Without the reset the probe still passes but cached prompts are answered from old keys and values."""
    engine, model = engines["untied"], perturbed(folders["untied"], seed=3)
    requests = greedy(random_prompts(16, seed=5))
    engine.generate(requests)
    monkeypatch.setattr(engine, "_reset_prefix_cache", lambda: None)
    engine.update_weights(*publish(model, version=2))
    stale = [output.token_ids for output in engine.generate(requests)]
    monkeypatch.undo()
    engine.update_weights(*publish(model, version=2))
    fresh = [output.token_ids for output in engine.generate(requests)]
    assert fresh == [reference_greedy(model, r.prompt_ids) for r in requests]
    assert stale != fresh


def test_wrong_checksum_is_refused(engines, folders) -> None:
    engine = engines["tied"]
    manifest, arrays = publish(perturbed(folders["tied"], seed=4), version=5)
    with pytest.raises(SyncError, match="checksum"):
        engine.update_weights(dataclasses.replace(manifest, checksum="0" * 16), arrays)
    assert engine.health.state is State.STALE
    with pytest.raises(IllegalTransition, match="stale"):
        engine.generate(greedy(random_prompts(1)))
    engine.update_weights(manifest, arrays)
    assert engine.health.state is State.READY
    assert engine.version == 5


def test_incomplete_or_misshapen_weights_are_refused(engines, folders) -> None:
    engine = engines["untied"]
    manifest, arrays = publish(perturbed(folders["untied"], seed=4), version=6)
    gone = {name: array for name, array in arrays.items() if name != "lm_head.weight"}
    with pytest.raises(SyncError, match="lm_head"):
        engine.update_weights(manifest, gone)
    names = tuple(n for n in manifest.names if n != "lm_head.weight")
    with pytest.raises(SyncError, match=r"missing.*lm_head"):
        engine.update_weights(dataclasses.replace(manifest, names=names), gone)
    with pytest.raises(SyncError, match=r"another shape.*norm"):
        engine.update_weights(manifest, {**arrays, "model.norm.weight": arrays["model.norm.weight"][:-1]})
    engine.update_weights(manifest, arrays)


def test_probe_catches_a_tied_head_that_is_not_repacked(engines, folders, monkeypatch) -> None:
    engine, model = engines["tied"], perturbed(folders["tied"], seed=6)
    published = publish(model, version=7)
    monkeypatch.setattr("actors.engine.weight_transfer.repack_tied_heads", lambda model: 0)
    with pytest.raises(SyncError, match="probe"):
        engine.update_weights(*published)
    assert engine.health.state is State.STALE
    monkeypatch.undo()
    assert engine.update_weights(*published).probe_error < 1e-4


def test_failed_load_leaves_a_stale_engine_that_can_be_refitted(engines, folders, monkeypatch) -> None:
    """A load that dies half way: the next full update fixes the model."""
    engine, model = engines["untied"], perturbed(folders["untied"], seed=7)
    manifest, arrays = publish(model, version=8)

    def half(self, update_info) -> None:
        names = sorted(update_info.tensors)[:5]
        self.model.load_weights(iter((n, update_info.tensors[n]) for n in names))
        raise OSError("lost")

    monkeypatch.setattr("actors.engine.weight_transfer.Transfer.receive_weights", half)
    with pytest.raises(SyncError, match=r"weights of version 8 were not taken: OSError: lost"):
        engine.update_weights(manifest, arrays)
    assert engine.health.state is State.STALE
    monkeypatch.undo()
    engine.update_weights(manifest, arrays)
    requests = greedy(random_prompts(8))
    expected = [reference_greedy(model, r.prompt_ids) for r in requests]
    assert [o.token_ids for o in engine.generate(requests)] == expected


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_broadcast_does_what_an_update_does(engines, folders, kind, monkeypatch) -> None:
    monkeypatch.setattr("learners.broadcast.BUCKET_BYTES", 50_000)  # parts of a layer come in different buckets
    engine, model = engines[kind], perturbed(folders[kind], seed=11)
    manifest, arrays = publish(model, version=8)
    assert len(buckets(manifest)) > 3
    with sending(manifest, arrays) as (host, sent):
        report = engine.receive_weights(manifest, host.rendezvous.seat(1))
        assert sent.result(20) is None
    assert (report.version, engine.version) == (8, 8)
    assert report.probe_error < 1e-4
    assert set(report.seconds) == {"broadcast", "probe", "total"}
    requests = greedy(random_prompts(32))
    expected = [reference_greedy(model, r.prompt_ids) for r in requests]
    assert [o.token_ids for o in engine.generate(requests)] == expected


def test_broadcast_that_breaks_off_leaves_a_stale_engine_that_can_be_refitted(engines, folders, monkeypatch) -> None:
    monkeypatch.setattr("learners.broadcast.BUCKET_BYTES", 50_000)
    engine, model = engines["untied"], perturbed(folders["untied"], seed=12)
    manifest, arrays = publish(model, version=8)
    broken = {**arrays, "model.norm.weight": arrays["model.norm.weight"] + 1}
    with sending(manifest, broken) as (host, sent):
        with pytest.raises(
            SyncError, match=r"test: .* not taken: BroadcastFailed: weights of version 8 came with checksum"
        ):
            engine.receive_weights(manifest, host.rendezvous.seat(1))
        assert isinstance(sent.exception(20), BroadcastFailed)
    assert engine.health.state is State.STALE
    others, _ = publish(perturbed(folders["tied"], seed=12), version=8)
    with sending(manifest, arrays) as (host, sent):
        with pytest.raises(SyncError, match=r"not this model's: missing or of another shape: \['lm_head"):
            engine.receive_weights(others, host.rendezvous.seat(1))
        host.abort("an engine refused")
        assert "an engine refused" in str(sent.exception(20))
    engine.update_weights(manifest, arrays)
    requests = greedy(random_prompts(8))
    expected = [reference_greedy(model, r.prompt_ids) for r in requests]
    assert [o.token_ids for o in engine.generate(requests)] == expected


def test_same_requests_give_same_tokens(engines, folders) -> None:
    """Whatever ran before, on whichever engine."""
    one, two = engines["untied"], engines["untied-2"]
    model = perturbed(folders["untied"], seed=8, std=0.02)
    one.update_weights(*publish(model, version=9))
    two.update_weights(*publish(model, version=9))
    requests = sampled(random_prompts(24, seed=1), n=4, seed=3)
    first = one.generate(requests)
    one.generate(sampled(random_prompts(37, seed=2), n=3, seed=4))
    one.generate(greedy([r.prompt_ids for r in requests[::3]]))
    assert one.generate(requests) == first
    assert two.generate(requests) == first
    other = [dataclasses.replace(r, seed=r.seed + 1) for r in requests]
    assert one.generate(other) != first
    lengths = {len(output.token_ids) for output in first}
    assert len(lengths) > 5, "the batch should shrink on the way, or the test shows little"
    texts = {output.text for output in first[:4]}
    assert len(texts) == 4, "samples of one prompt differ"


def test_options_of_sampling_reach_vllm(engines) -> None:
    """Least likely tokens left out, repetition punished, and an answer that ends at a text, which is cut off it."""
    engine = engines["untied"]
    (prompt,) = random_prompts(1, seed=3)
    (plain,) = engine.generate(greedy([prompt], tokens=24))
    base = EngineRequest(prompt, 0.0, 1.0, -1, 24, 0)
    # With min_p 1 only the likeliest token is left: sampling is greedy then.
    alone, punished = engine.generate(
        [replace(base, temperature=1.0, min_p=1.0), replace(base, repetition_penalty=5.0)]
    )
    assert alone.token_ids == plain.token_ids
    assert len(set(punished.token_ids)) == len(punished.token_ids)
    end = plain.text[len(plain.text) // 2 :][:4]
    (cut,) = engine.generate([replace(base, stop=(end,))])
    assert cut.text == plain.text[: plain.text.index(end)]
    assert cut.finish_reason == "stop"
    assert len(cut.token_ids) < len(plain.token_ids)


def test_groups_are_sampled_without_a_pause(folders) -> None:
    """Groups come back as they are done, more than fit at once; here no token depends on what shares a step."""
    engine = engine_of(folders["untied"], slots=8)
    prompts = random_prompts(12, seed=4)
    groups = [sampled(prompts[:2], 3, 1, 40), sampled(prompts[2:9], 4, 2), [], greedy(prompts[9:], 1)]
    # The first group waits for a long answer while others pass it.
    groups[0] = [dataclasses.replace(request, stop_ids=()) for request in groups[0]]
    groups[1] = [dataclasses.replace(request, max_new_tokens=2) for request in groups[1]]
    found = list(engine.stream(groups))
    assert [number for number, _ in found] == [2, 1, 3, 0]
    assert list(engine.stream(groups)) == found
    for number, outputs in found:
        assert [one.token_ids for one in outputs] == [one.token_ids for one in engine.generate(groups[number])]
        backwards = engine.generate(groups[number][::-1])
        assert [one.token_ids for one in backwards[::-1]] == [one.token_ids for one in outputs]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_feed_repeats_where_logits_depend_on_the_batch(tmp_path: Path, dtype: str) -> None:
    """From some width on matrix products depend on how many rows they have, most in bfloat16. A feed's batches follow
    from its requests, so that sampling it again gives the same, whatever ran before; that is what a resume does.
    """
    folder = build_tiny_model(tmp_path / "wide", hidden=576, std=0.1)
    engine = engine_of(folder, dtype, slots=8)
    prompts = random_prompts(10, seed=7)
    feed = [sampled(prompts[:3], 4, 5), sampled(prompts[3:8], 2, 6), greedy(prompts[8:], 20)]
    expected = list(engine.stream(feed))
    for number, _ in expected:
        engine.generate(feed[number])
    assert list(engine.stream(feed)) == expected


def test_a_prompt_in_two_parts_draws_what_it_draws_in_one(folders, monkeypatch) -> None:
    """What vLLM's own seeds by request crash on (CPU); a step holds 64 tokens here."""
    prompts = random_prompts(6, seed=5)
    requests = sampled(prompts, 2, 3)
    whole = engine_of(folders["untied"]).generate(requests)
    monkeypatch.setattr("actors.engine.vllm_engine._STEP_TOKENS", 64)
    assert engine_of(folders["untied"]).generate(requests) == whole


def test_a_consumer_that_leaves_aborts_what_is_unfinished(engines) -> None:
    engine = engines["untied"]
    requests = sampled(random_prompts(8, seed=6), 2, 4)
    expected = engine.generate(requests)
    stream = engine.stream([greedy(random_prompts(4), 1), requests])
    assert next(stream)[0] == 0
    stream.close()
    assert engine.health.state is State.READY
    assert engine.generate(requests) == expected


def test_prompt_that_leaves_no_room(engines) -> None:
    engine = engines["tied"]
    full = EngineRequest((1,) * 256, 0.0, 1.0, -1, 8, 0)
    with pytest.raises(UserError, match=r"256 tokens.*max_length"):
        engine.generate([full])
    (cut,) = engine.generate([dataclasses.replace(full, prompt_ids=(1,) * 252)])
    assert cut.finish_reason == "length"
    assert len(cut.token_ids) <= 4


def test_one_bos(folders, tmp_path) -> None:
    """With the template's BOS, with one that is added, and never two."""
    with_template = ChatEncoder(folders["tied"], add_bos=True)
    bare = build_tiny_model(tmp_path / "bare", with_bos=False)
    for encoder in (with_template, ChatEncoder(bare, add_bos=True)):
        ids = encoder.prompt_ids("What colour does Ann like best?")
        assert ids[0] == encoder.tokenizer.bos_token_id
        assert ids.count(encoder.tokenizer.bos_token_id) == 1


def test_probe_refuses_nan() -> None:
    manifest = WeightsManifest(1, "0", (), (), (), (1, 2), (-1.0,))
    with pytest.raises(SyncError, match="probe"):
        check_probe(manifest, [float("nan")], "float32")
    with pytest.raises(SyncError, match="probe"):
        check_probe(manifest, [-1.2], "bfloat16")
    assert check_probe(manifest, [-1.1], "bfloat16") == pytest.approx(0.1)
    with pytest.raises(SyncError, match="more than 0.001"):
        check_probe(manifest, [-1.0035], "float32")
    assert check_probe(manifest, [-1.0035], "float32", tf32=True) == pytest.approx(0.0035)
    with pytest.raises(SyncError, match="more than 0.03"):
        check_probe(manifest, [-1.04], "float32", tf32=True)
    mixed = replace(manifest, probe_dtype="bfloat16")
    assert check_probe(mixed, [-1.1], "float32") == pytest.approx(0.1)
    with pytest.raises(SyncError, match="more than 0.15"):
        check_probe(mixed, [-1.2], "float32")
    unlikely = WeightsManifest(1, "0", (), (), (), (1, 2), (-20.0,))
    assert check_probe(unlikely, [-20.5], "bfloat16") == pytest.approx(0.5)
    with pytest.raises(SyncError, match="probe"):
        check_probe(unlikely, [-21.5], "bfloat16")
