"""A whole run with adapters over the embedded world, in which sampling overlaps training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.engine.requests import EngineRequest
from actors.engine.vllm_engine import VllmEngine
from configs.schema import LoraConfig
from learners.checkpoint_layout import read_state
from learners.encode import ChatEncoder
from learners.lora import ADAPTER_FILE
from learners.weights import checksum
from tests.kits.run import summary, train

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

BASE = Path("worlds/default/policy")
SMALLER = (
    "schedule.rounds=3",
    "schedule.max_staleness=1",
    "rollout.prompts_per_round=12",
    "prompts.heldout_limit=2",
    "evaluation.samples_per_prompt=1",
    "reward.policy=current",
    "learner.learning_rate=1e-3",
)


@torch.no_grad()
def test_a_run_whose_adapter_travels_alone_while_the_next_round_is_sampled(tmp_path: Path) -> None:
    done = train(tmp_path, "adapter", *SMALLER, "learner.lora={rank: 4, publish: adapter}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary(tmp_path, "adapter")["weight_version"] == 3
    rows = [json.loads(line) for line in (tmp_path / "adapter" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["sample_version"], row["staleness"]) for row in rows] == [(0, 0), (0, 1), (1, 1)]
    checkpoint = tmp_path / "adapter" / "checkpoints" / "round-0001"
    published = load_file(checkpoint / "adapter" / ADAPTER_FILE)
    assert read_state(checkpoint).adapter_checksum == checksum(published)
    assert any(float(tensor.abs().max()) > 0 for name, tensor in published.items() if "lora_B" in name)

    # What an actor does that is replaced after the round: greedy answers are those of the merged model.
    lora = LoraConfig(rank=4, publish="adapter")
    engine = VllmEngine(BASE, "float32", 256, 0.0625, 16, version=1, lora=lora, adapter=checkpoint / "adapter")
    encoder = ChatEncoder(BASE, False)
    prompts = [tuple(encoder.prompt_ids(f"What is {n} plus {n}?")) for n in range(8)]
    end = encoder.end_of_turn_id
    outputs = engine.generate([EngineRequest(prompt, 0.0, 1.0, -1, 16, 0, (end,)) for prompt in prompts])
    merged = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    for prompt, output in zip(prompts, outputs, strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        expected = merged.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, eos_token_id=end)
        assert output.token_ids == tuple(expected[0, len(prompt) :].tolist())
