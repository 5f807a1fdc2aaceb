"""Build the embedded world: prompts, a seed model with a language imbalance, and its English-aligned policy.

One command, one seed: ``isogloss build-world --out FOLDER``. The steps:

1. draw facts and write the parallel prompts and the English preference pairs (``prompts/``, ``anchor.jsonl``);
2. train a tokenizer and a small Llama on noisy answers and on translations (``reference/``);
3. align it by DPO on English preference pairs alone (``policy/``), as ICR's starting policy is;
4. measure both on the held-out prompts and write the manifest (``world.json``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shutil
import time
from pathlib import Path

from configs.atomic import write_json
from configs.errors import UserError
from worlds.confusion import confusions
from worlds.facts import FactSplit, anchor_rows, draw_facts, prompt_rows, write_jsonl, write_prompts
from worlds.languages import PIVOT, Language, load_languages
from worlds.settings import WorldSettings

LANGUAGES_DIR = Path(__file__).parent / "languages"
DEFAULT_OUT = Path(__file__).parent / "default"
MANIFEST = "world.json"
_EVALUATION_SAMPLES = 8


def build_prompts(
    languages_dir: Path, out: Path, seed: int, settings: WorldSettings | None = None
) -> tuple[dict[str, Language], FactSplit]:
    """Write the prompts of every language and the anchor pairs; needs no model and takes under a second."""
    settings = settings or WorldSettings()
    languages = load_languages(languages_dir)
    split = draw_facts(languages[PIVOT], seed, settings.train_share)
    write_prompts(languages, split, seed, out)
    write_jsonl(out / "anchor.jsonl", anchor_rows(languages[PIVOT], split.train, seed, settings.wrong_answers))
    return languages, split


def build_world(languages_dir: Path, out: Path, seed: int, settings: WorldSettings | None = None) -> None:
    """Build a whole world below ``out``; files there with the same names are replaced.

    Args:
        languages_dir: Folder of language files.
        out: Where the world is written.
        seed: Of facts, noise, weights and order.
        settings: Sizes; the defaults take a few minutes on one CPU core.

    Raises:
        UserError: A rate is none, or a language file is wrong; nothing is written then.
    """
    settings = settings or WorldSettings()
    if not 0 <= settings.crosslingual_right_rate <= 1:
        raise UserError(f"--crosslingual-rate {settings.crosslingual_right_rate:g}: expected a share from 0 to 1")
    import torch

    # Two threads that spin wait for each other as soon as anything shares a core: 14 s for a pass instead of 0.6.
    torch.set_num_threads(1)
    started = time.monotonic()
    languages, split = build_prompts(languages_dir, out, seed, settings)
    _build_reference(languages, split, out, seed, settings)
    _build_policy(out, seed, settings)
    accuracies = {model: _measure(out / model, languages, split, seed) for model in ("reference", "policy")}
    seconds = time.monotonic() - started
    write_manifest(out, languages_dir, languages, seed, settings, accuracies=accuracies, seconds=seconds)
    print(f"world built in {seconds:.0f} s: {out}")


def _build_reference(
    languages: dict[str, Language], split: FactSplit, out: Path, seed: int, settings: WorldSettings
) -> None:
    from worlds import sft
    from worlds.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(sft.tokenizer_texts(languages), settings.vocab_size, settings.max_positions)
    model = sft.new_model(tokenizer, settings, seed)
    sft.train_supervised(model, tokenizer, languages, split, settings, seed=seed)
    model.save_pretrained(out / "reference")
    tokenizer.save_pretrained(out / "reference")


def _build_policy(out: Path, seed: int, settings: WorldSettings) -> None:
    from configs.schema import LearnerConfig, ModelConfig
    from learners.offline import train_offline
    from rollout.records import Pair

    rows = [json.loads(line) for line in (out / "anchor.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [
        Pair(
            id=f"anchor/{row['id']}",
            round=1,
            prompt_id=row["id"].rpartition("-")[0],
            language=row["language"],
            source="anchor",
            prompt=row["prompt"],
            chosen=row["chosen"],
            rejected=row["rejected"],
            chosen_score=1.0,
            rejected_score=0.0,
            weight_version=0,
        )
        for row in rows
    ]
    learner = LearnerConfig(
        learning_rate=settings.dpo_learning_rate,
        nll_weight=settings.dpo_nll_weight,
        epochs=settings.dpo_epochs,
        pairs_per_step=settings.dpo_pairs_per_step,
    )
    model = ModelConfig(policy=out / "reference", max_length=settings.max_positions)
    shutil.rmtree(out / "policy", ignore_errors=True)
    train_offline(out / "reference", pairs, out / "policy", learner, model, seed=seed)


def _measure(folder: Path, languages: dict[str, Language], split: FactSplit, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy on the held-out prompts by language, sampled (temperature 1) and greedy."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    from worlds.measure import accuracy

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    result = {}
    for code, language in languages.items():
        rows = prompt_rows(language, split.heldout, confusions(language, seed))
        sampled = accuracy(model, tokenizer, rows, _EVALUATION_SAMPLES, 1.0, seed=seed)
        greedy = accuracy(model, tokenizer, rows, 1, 0.0, seed=seed)
        result[code] = {"sampled": round(sampled, 4), "greedy": round(greedy, 4)}
        print(f"{folder.name} {code}: sampled {sampled:.3f}, greedy {greedy:.3f}")
    return result


def write_manifest(
    out: Path,
    languages_dir: Path,
    languages: dict[str, Language],
    seed: int,
    settings: WorldSettings,
    *,
    accuracies: dict[str, dict[str, dict[str, float]]],
    seconds: float,
) -> None:
    """Write ``world.json``: what the world was built from, with what, and what came out."""
    import tokenizers
    import torch
    import transformers

    manifest = {
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "languages": {code: language.name for code, language in languages.items()},
        "language_files": checksums(languages_dir, ".yaml"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "build_seconds": round(seconds),
        "heldout_accuracy": accuracies,
        "files": checksums(out),
    }
    write_json(out / MANIFEST, manifest)


def checksums(folder: Path, suffix: str = "") -> dict[str, str]:
    """SHA-256 of every file below ``folder`` but the manifest, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(f"*{suffix}"))
        if path.is_file() and path.name != MANIFEST
    }
