"""Tiny random models and pairs for the tests of the learner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as Alphabet
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from learners.logprobs import LogprobModel, segment_logprobs
from learners.packing import Segment
from rollout.records import Pair, SampleGroup

SPECIALS = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, plus specials: needs no training."""
    alphabet = sorted(Alphabet.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    core = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIALS[3:],
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(kind: str, tied: bool = True, seed: int = 0) -> PreTrainedModel:
    """A tiny random model: ``llama``, ``gemma3`` (sliding window 8, soft cap) or ``qwen3``."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(
        vocab_size=262,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=5,
        pad_token_id=0,
        initializer_range=0.2,
    )
    config: LlamaConfig | Gemma3TextConfig | Qwen3Config
    if kind == "llama":
        config = LlamaConfig(num_hidden_layers=2, **sizes)
    elif kind == "gemma3":
        config = Gemma3TextConfig(
            num_hidden_layers=3,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            final_logit_softcapping=5.0,
            query_pre_attn_scalar=8,
            **sizes,
        )
    else:
        config = Qwen3Config(num_hidden_layers=2, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def sum_logprobs(
    model: PreTrainedModel, segments: Sequence[Segment], tokens_per_micro_batch: int, chunk: int
) -> list[list[float]]:
    """Summed log-probability (nats) of each completion of each segment, on the CPU and without gradient.

    Every token of a completion counts, the first and the end of turn included, and nothing else.
    """
    wrapped = LogprobModel(model, chunk)
    per_token = segment_logprobs(wrapped, segments, tokens_per_micro_batch, torch.device("cpu"))
    return [[float(values.sum()) for values in row] for row in per_token]


def make_folder(folder: Path, kind: str = "llama", tied: bool = True, seed: int = 0) -> Path:
    """A loadable model folder with tokenizer, chat template and generation config."""
    make_model(kind, tied, seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_pairs(count: int, round_number: int = 1) -> list[Pair]:
    """Pairs of different lengths in two languages."""
    return [
        Pair(
            id=f"r{round_number:04d}/{'es' if n % 2 else 'sw'}/p{n}",
            round=round_number,
            prompt_id=f"p{n}",
            language="es" if n % 2 else "sw",
            source="mined",
            prompt="question " + "abc " * (n % 5) + str(n),
            chosen="good answer " + "x" * (n % 7),
            rejected="bad " + "y" * (1 + 3 * n % 11),
            chosen_score=1.0,
            rejected_score=0.0,
            weight_version=0,
        )
        for n in range(count)
    ]


def make_groups(count: int, answers: int = 3, round_number: int = 1) -> list[SampleGroup]:
    """Groups of answers of different lengths and rewards in two languages."""
    return [
        SampleGroup(
            id=f"r{round_number:04d}/{'es' if n % 2 else 'sw'}/p{n}",
            round=round_number,
            prompt_id=f"p{n}",
            language="es" if n % 2 else "sw",
            prompt="question " + "abc " * (n % 4) + str(n),
            completions=tuple(f"answer {k} " + "xyz"[k % 3] * ((5 * n + 3 * k) % 8) for k in range(answers)),
            rewards=tuple(float((n + k) % 3) - 0.25 * k for k in range(answers)),
            weight_version=0,
        )
        for n in range(count)
    ]


def make_examples(objective: str, round_number: int = 1) -> list[Pair] | list[SampleGroup]:
    """What an objective trains on in a round: 14 pairs or groups."""
    if objective in ("rloo", "group"):
        return make_groups(14, round_number=round_number)
    return make_pairs(14, round_number)


RANK = """
import sys, json, torch
import torch.distributed as dist
from pathlib import Path
from tests.kits.learner import make_examples
from configs.schema import LearnerConfig, ModelConfig
from learners import distributed
from learners.checkpoint_layout import latest_checkpoint
from learners.session import LearnerSession
from learners.snapshot import restore, save_round
job = json.loads(sys.argv[1])
distributed.load_deepspeed()
store = dist.FileStore(job["store"], job["ranks"])
dist.init_process_group("gloo", store=store, rank=job["rank"], world_size=job["ranks"])
distributed.load_deepspeed().init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
for case in job["cases"]:
    learner = LearnerConfig.model_validate(case["learner"])
    model = ModelConfig(policy=job["policy"], dtype=case["dtype"])
    run = Path(job["run"]) / case["name"]
    for rounds in case["parts"]:
        found = distributed.gather_objects(latest_checkpoint(run))[0]
        session = LearnerSession(learner, model, 7, found or Path(job["policy"]))
        if found is not None:
            assert restore(session, found)
        for number in rounds:
            save_round(session, run, session.train_round(number, make_examples(learner.objective, number)), 2, 0)
        session.close()
dist.barrier()
"""


@dataclass(frozen=True)
class Case:
    """Rounds to train on all ranks; each of ``parts`` is a process's life, begun from the last checkpoint."""

    name: str
    learner: dict[str, Any]
    dtype: str = "float32"
    parts: tuple[tuple[int, ...], ...] = ((1,),)


def train_on_ranks(folder: Path, run_dir: Path, ranks: int, cases: list[Case]) -> dict[str, Path]:
    """Cases one after the other on real ranks, without Ray; gives each case's last checkpoint."""
    run_dir.mkdir(parents=True, exist_ok=True)
    job = {
        "store": str(run_dir / "store"),
        "ranks": ranks,
        "cases": [asdict(case) for case in cases],
        "policy": str(folder),
        "run": str(run_dir),
    }
    launcher = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, json.dumps(job | {"rank": rank})],
            env={
                **os.environ,
                **launcher,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=200) for process in started] == [0] * ranks
    return {case.name: run_dir / case.name / "checkpoints" / f"round-{case.parts[-1][-1]:04d}" for case in cases}
