"""Configs, overrides, descriptions of clusters, and the overrides of ``isogloss serve``."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fuzz import odd
from benchmarks.fuzz.case import Place, Read, Reader
from benchmarks.fuzz.mutate import encoded, mutated, spoiled, to_yaml, tree
from benchmarks.fuzz.odd import Pairs

_FIELDS = (
    "run.seed", "run.name", "run.min_free_disk_gb", "model.policy", "model.max_length", "languages.codes",
    "languages.dominant", "languages.shares.en", "languages.names", "prompts.limit", "prompts.train",
    "rollout.temperature", "rollout.actors", "rollout.samples_per_prompt", "candidates.source", "reward.kind",
    "reward.upper_bound", "reward.length_control", "learner.learning_rate", "learner.workers", "learner.deepspeed",
    "learner.lora", "judge.base_url", "judge.extra_body", "judge.cache", "serve.enabled", "serve.port",
    "cluster.address", "cluster.num_cpus", "schedule.rounds", "offline.path", "anchor.pairs_per_round",
    "evaluation.samples",
)  # fmt: skip


@cache
def _seeds(root: Path) -> tuple[Any, ...]:
    """Trees of the presets, and of a whole resolved config, twice."""
    import actors.plan.placement  # noqa: F401  # here, and not within a case
    from configs.load import load_config

    presets = []
    for path in sorted((root / "configs").rglob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "extends" in content:
            parents = content["extends"] if isinstance(content["extends"], list) else [content["extends"]]
            content["extends"] = [str(path.parent / parent) for parent in parents]
            if len(parents) == 1:
                content["extends"] = content["extends"][0]
        presets.append(tree(content))
    whole = tree(load_config(root / "configs" / "demo.yaml").model_dump(mode="json"))
    return (*presets, whole, whole)


def _config(rng: random.Random, place: Place) -> Read:
    seeds = _seeds(place.root)
    seed = rng.choice(seeds)
    pick = rng.random()
    if pick < 0.06:
        seed = Pairs(
            [["extends", rng.choice((place.strange(rng), "case.yaml", "next.yaml", odd.yaml_value(rng)))], *seed]
        )
        place.write("next.yaml", b"extends: case.yaml\n")
        data = encoded(to_yaml(seed))
    elif pick < 0.75:
        data = encoded(to_yaml(mutated(seed, rng, odd.yaml_value)))
    else:
        data = spoiled(encoded(to_yaml(seed)), encoded(to_yaml(rng.choice(seeds))), rng)
    path = place.write("case.yaml", data + b"\n")
    if rng.random() < 0.01:
        path = Path(place.strange(rng))
    return lambda: _load(path, [], place)


def _overrides(rng: random.Random, place: Place) -> Read:
    texts = []
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(_FIELDS)
        if rng.random() < 0.25:
            strange = rng.choice(odd.TEXTS)[:300]
            name = rng.choice((f"{name}.{strange}", name.split(".")[0], strange, f"{name}..x", f".{name}", name.upper(),
                               f"{name}.a.b.c.d", f"extends.{name}"))  # fmt: skip
        value = to_yaml(odd.yaml_value(rng)).removeprefix("\n")
        texts.append(f"{name}={value}" if rng.random() < 0.95 else f"{name}{value}")
    _seeds(place.root)
    path = place.write("case.yaml", f"extends: {place.root / 'configs' / 'demo.yaml'}\n".encode())
    # What a program is given as an argument holds no NUL.
    texts = [text.replace("\0", "") for text in texts]
    return lambda: _load(path, texts, place)


def _load(path: Path, overrides: list[str], place: Place) -> None:
    """What ``train --dry-run``, ``submit`` and ``--resume`` do with a config, as far as no model is needed."""
    from actors.plan.placement import PlacementPlan
    from configs.load import config_files, dump_yaml, load_config

    config = load_config(path, overrides)
    config_files(path)
    PlacementPlan.from_config(config).rows()
    kept = place.folder / "kept.yaml"
    kept.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(kept) == config, "a run's config.yaml reads back as another config"


def _nodes(rng: random.Random, place: Place) -> Read:
    from configs.nodes import load_cluster

    files = [path.read_bytes() for path in sorted((place.root / "deploy" / "clusters").glob("*.yaml"))]
    place.write("llama3-8b.json", b"{}")
    if rng.random() < 0.7:
        data = encoded(to_yaml(mutated(tree(yaml.safe_load(rng.choice(files))), rng, odd.yaml_value)))
    else:
        data = spoiled(rng.choice(files), rng.choice(files), rng)
    path = place.write("nodes.yaml", data)
    if rng.random() < 0.01:
        path = Path(place.strange(rng))

    def read() -> None:
        cluster = load_cluster(path)
        cluster.resources()
        cluster.gpu_memory()
        cluster.model_config_of(Path("x"))

    return read


def _serve(rng: random.Random, place: Place) -> Read:
    from configs.load import dump_yaml, load_config
    from serving.command import load_run

    text = dump_yaml(load_config(place.root / "configs" / "demo.yaml"))
    fields = (
        "port",
        "serve.port",
        "serve.max_tokens",
        "cluster.num_cpus",
        "serve.api_keys_file",
        "serve",
        "cluster",
        "x.y",
    )
    overrides = [f"{rng.choice(fields)}={to_yaml(odd.yaml_value(rng))}".replace("\0", "")]
    if rng.random() < 0.5:
        overrides = []
        text = to_yaml(mutated(tree(yaml.safe_load(text)), rng, odd.yaml_value))
    place.write("config.yaml", encoded(text) if rng.random() < 0.7 else spoiled(encoded(text), b"run: {}", rng))
    return lambda: load_run(place.folder, overrides)


READERS = (
    Reader("configs", "configs", 22, _config),
    Reader("overrides", "configs", 8, _overrides),
    Reader("node files", "configs", 6, _nodes),
    Reader("serve", "configs", 3, _serve, slow=True),
)
