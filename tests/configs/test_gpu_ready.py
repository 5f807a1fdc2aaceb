"""What differs where there is a GPU: defaults of engines, deadlines of collectives, presets, attention by runs."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.gpu_check.numerics import families
from benchmarks.gpu_check.work import random_model, random_pairs
from cli import app
from configs.errors import UserError
from configs.load import load_config
from configs.sampling import RolloutConfig
from configs.serving import ServeConfig
from learners import varlen
from learners.logprobs import LogprobModel
from learners.packing import Segment, pack
from learners.varlen import runs_of


def test_engines_compile_and_plan_ahead_on_gpus_alone_unless_told() -> None:
    for section, field in ((RolloutConfig, "gpus_per_actor"), (ServeConfig, "gpus_per_replica")):
        on_cpu, on_gpu = section(), section.model_validate({field: 0.3})
        assert (on_cpu.eager, on_cpu.plans_ahead) == (True, False)
        assert (on_gpu.eager, on_gpu.plans_ahead) == (False, True)
        told = section.model_validate({field: 1, "enforce_eager": True, "async_scheduling": False})
        assert (told.eager, told.plans_ahead) == (True, False)


def test_a_sync_may_not_outlast_the_ranks_that_wait_for_it() -> None:
    preset = Path("configs/llama3_8b_icr.yaml")
    assert load_config(preset).cluster.sync_timeout_s < 900
    with pytest.raises(UserError, match=r"cluster\.sync_timeout_s: 900 must be below 900, since the other 7 learner"):
        load_config(preset, ["cluster.sync_timeout_s=900"])
    for harmless in (["learner.workers=1", "learner.zero_stage=1"], ["cluster.weight_transfer=objects"]):
        assert load_config(preset, ["cluster.sync_timeout_s=900", *harmless]).cluster.sync_timeout_s == 900


@pytest.mark.parametrize(
    ("preset", "cluster", "gpus"),
    [("llama3_8b_one_gpu", "1xh100", "0.99 of 1"), ("llama3_8b_8gpu", "8xh100", "8 of 8")],
)
def test_presets_for_a_node_fit_it(preset: str, cluster: str, gpus: str) -> None:
    described = f"deploy/clusters/{cluster}.yaml"
    done = CliRunner().invoke(app, ["train", f"configs/{preset}.yaml", "--dry-run", "--cluster", described])
    assert done.exit_code == 0, done.output
    assert gpus in done.output
    for role in ("rollout", "reward", "learner"):
        (row,) = [
            line.split("│") for line in done.output.splitlines() if line.startswith(f"│ {role} ") and ", " in line
        ]
        assert float(row[3]) < float(row[4]), "what is counted must leave room for what is not"


def test_the_runs_of_a_batch_see_what_its_mask_shows() -> None:
    draw = random.Random(0)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(range(draw.randint(1, most)))

    segments = [Segment(tokens(9), tuple(tokens(7) for _ in range(draw.randint(1, 4)))) for _ in range(30)]
    batches = pack(segments, 96)
    assert len(batches) > 1
    for batch in batches:
        runs = runs_of(batch.segment_ids, batch.branch_ids)
        rows, length = batch.input_ids.shape
        seen = torch.zeros(rows * length, rows * length, dtype=torch.bool)
        for number in range(len(runs.queries) - 1):
            queries = torch.arange(*runs.queries[number : number + 2].tolist())
            keys = runs.gather[slice(*runs.keys[number : number + 2].tolist())]
            assert len(queries) <= runs.longest_query
            assert len(keys) <= runs.longest_keys
            causal = torch.ones(len(queries), len(keys), dtype=torch.bool).tril(len(keys) - len(queries))
            seen[queries[:, None], keys[None, :]] = causal
        mask = torch.block_diag(*batch.attention_mask()[:, 0].int()).bool()
        real = (batch.segment_ids >= 0).flatten()
        assert torch.equal(seen[real], mask[real])
        assert seen.diagonal().all(), "a padded position that sees nothing would be NaN"


def attention_of_runs(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    longest_query: int,
    longest_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What ``torch.nn.attention.varlen.varlen_attn`` computes on a GPU: causal at the end, run by run."""
    assert window_size[1] == 0
    assert enable_gqa
    found = torch.empty_like(query)
    for number in range(len(queries) - 1):
        a, b, c, d = *queries[number : number + 2].tolist(), *keys[number : number + 2].tolist()
        assert b - a <= longest_query
        assert d - c <= longest_keys
        far = torch.arange(d - c - (b - a), d - c)[:, None] - torch.arange(d - c)[None, :]
        mask = (far >= 0) & ((far <= window_size[0]) if window_size[0] >= 0 else True)
        q, k, v = (one.transpose(0, 1)[None] for one in (query[a:b], key[c:d], value[c:d]))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
        found[a:b] = out[0].transpose(0, 1)
    return found


@pytest.mark.parametrize("name", families())
def test_models_compute_the_same_by_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel alone is missing on a CPU: all else of the GPU's way is as it is there."""
    config = families()[name]
    batches = pack([one.segment for one in random_pairs(6, config.vocab_size, 40, 30)], 256)
    sides = []
    for by_runs in (False, True):
        if by_runs:
            monkeypatch.setattr(varlen, "takes", lambda device, dtype: True)
            monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attention_of_runs)
            batches = [replace(one, runs=runs_of(one.segment_ids, one.branch_ids)) for one in batches]
        model = LogprobModel(random_model(config, torch.float32, torch.device("cpu")), 1024)
        assert model.by_runs == by_runs
        values = torch.cat([model(batch) for batch in batches])
        (values * torch.linspace(0, 1, len(values))).sum().backward()
        sides.append((values.detach(), [one.grad for one in model.parameters() if one.grad is not None]))
    torch.testing.assert_close(sides[1][0], sides[0][0], rtol=1e-4, atol=1e-4)
    for ours, dense in zip(sides[1][1], sides[0][1], strict=True):
        assert float((ours - dense).norm() / dense.norm()) < 1e-4
