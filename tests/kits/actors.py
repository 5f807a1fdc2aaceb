"""What a learner would publish, and a small run to publish it to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from configs.schema import Config
from learners.broadcast import RendezvousServer, send
from learners.logprobs import LogprobModel, segment_logprobs
from learners.packing import Segment
from learners.rendezvous import Rendezvous
from learners.weights import WeightsManifest, checksum, dtype_name, from_numpy, to_numpy

Published = tuple[WeightsManifest, Any]  # arrays by name; where there is no Ray they stand for references to them


def publish(model: PreTrainedModel, version: int) -> Published:
    """What a learner would publish of a Transformers model."""
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    names = tuple(sorted(weights))
    digest = checksum(weights)
    ids = tuple(range(7, 31))
    scores = segment_logprobs(LogprobModel(model, 64), [Segment(ids[:1], (ids[1:],))], 64, torch.device("cpu"))[0][0]
    manifest = WeightsManifest(
        version,
        digest,
        names,
        tuple(dtype_name(weights[n]) for n in names),
        tuple(tuple(weights[n].shape) for n in names),
        ids,
        tuple(float(x) for x in scores),
    )
    arrays = to_numpy(weights)
    for array in arrays.values():
        array.flags.writeable = False  # as they come out of Ray's object store
    return manifest, arrays


def send_to(rendezvous: Rendezvous, manifest: WeightsManifest, arrays: dict[str, Any]) -> None:
    """What the learner's rank 0 does."""
    send(rendezvous, manifest, from_numpy(arrays, manifest), torch.device("cpu"))


@contextmanager
def sending(
    manifest: WeightsManifest, arrays: dict[str, Any], takers: int = 1
) -> Iterator[tuple[RendezvousServer, Future[None]]]:
    """A learner that sends, in a thread."""
    with RendezvousServer("127.0.0.1", takers, "gloo", 20) as host, ThreadPoolExecutor(1) as pool:
        yield host, pool.submit(send_to, host.rendezvous, manifest, arrays)


def perturbed(folder: Path, seed: int, std: float = 0.1) -> PreTrainedModel:
    """The folder's model with noise on every parameter."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    model.eval()
    return model


PROMPTS = {
    "en": ["What colour does Ann like best?", "Which city does Bob live in?", "What does Eve play at night?"],
    "es": ["¿Qué color le gusta más a Ana?", "¿En qué ciudad vive Bob?", "¿Qué toca Eva por la noche?"],
}


def small_config(root: Path, policy: Path, reference: Path, **sections: dict[str, Any]) -> Config:
    """A run over three prompts in two languages; ``sections`` are merged over it."""
    (root / "prompts").mkdir(exist_ok=True)
    for code, texts in PROMPTS.items():
        rows = [{"id": f"p{i}", "prompt": text, "answer": "x"} for i, text in enumerate(texts)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "prompts" / f"{code}.jsonl").write_text(lines, encoding="utf-8")
    settings: dict[str, dict[str, Any]] = {
        "run": {"name": "small", "dir": str(root / "runs")},
        "model": {"policy": str(policy), "reference": str(reference), "max_length": 160},
        "languages": {"codes": ["en", "es"]},
        "prompts": {"train": str(root / "prompts" / "{lang}.jsonl")},
        "rollout": {
            "actors": 2,
            "cpus_per_actor": 0.5,
            "prompts_per_round": 3,
            "samples_per_prompt": 4,
            "max_new_tokens": 16,
            "chunk_prompts": 3,
            "kv_cache_gb": 0.0625,
            "max_num_seqs": 32,
        },
        "reward": {"cpus_per_actor": 0.5},
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return Config.model_validate(settings)
