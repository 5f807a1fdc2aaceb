"""What the tests of rollout/ and evaluation/ share: small configs, prompt files and candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.schema import Config
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Source
from rollout.token_ids import TokenIds

QUESTIONS = {
    "en": "What is the capital of land {}?",
    "es": "¿Cuál es la capital del país {}?",
    "fr": "Capitale du pays {} ?",
}


def make_config(**changes: Any) -> Config:
    """A valid config; ``section__field=value`` changes a field, ``section={...}`` merges a section."""
    data: dict[str, Any] = {
        "model": {"policy": "start", "reference": "sft"},
        "languages": {"codes": ["en", "es", "fr"]},
        "prompts": {"train": "{lang}.jsonl"},
        "rollout": {"prompts_per_round": 4, "samples_per_prompt": 3, "chunk_prompts": 2},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        data.setdefault(section, {})
        if field:
            data[section][field] = value
        else:
            data[section].update(value)
    return Config.model_validate(data)


def lidr_config(**changes: Any) -> Config:
    """A config of the cross-language reward."""
    return make_config(candidates__source="self_translation", reward__kind="cross_language", **changes)


def write_lines(path: Path, rows: list[Any]) -> Path:
    """JSON lines; a ``bytes`` or ``str`` row is written as it is."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def write_prompts(
    folder: Path, count: int = 6, answers: bool = True, codes: tuple[str, ...] = ("en", "es", "fr")
) -> str:
    """Parallel prompt files; returns the pattern."""
    for code in codes:
        rows = [{"id": f"p{i}", "prompt": QUESTIONS[code].format(i)} for i in range(count)]
        if answers:
            rows = [{**row, "answer": f"{code} answer {i}"} for i, row in enumerate(rows)]
        write_lines(folder / f"{code}.jsonl", rows)
    return str(folder / "{lang}.jsonl")


def make_prompts(folder: Path, config: Config, count: int = 6, answers: bool = True) -> PromptSet:
    """A prompt set in ``config``'s languages."""
    return PromptSet.load(write_prompts(folder, count, answers), config.languages)


def candidate(
    prompt_id: str = "p0",
    language: str = "es",
    sample: int = 0,
    text: str = "Una respuesta.",
    source: Source = "policy",
    origin: str | None = None,
    round: int = 1,
    **fields: Any,
) -> Candidate:
    """A candidate with sensible defaults; token ids are one a word and an end of turn."""
    key = CandidateKey(round, prompt_id, language, source, origin or language, sample)
    values: dict[str, Any] = {"finish_reason": "stop", "weight_version": 0, "gate": "ok", **fields}
    return Candidate(key, text, TokenIds((*range(10, 10 + len(text.split())), 2)), **values)
