"""The short way to a tokenizer gives what AutoTokenizer gives, and is taken by no folder for which it would not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from learners.tokenizer import PLAIN_MODELS, load_tokenizer
from tests.kits.imports import check_left_out

POLICY = Path("worlds/default/policy")
TEXT = "Ann's city: São Paulo, Київ 北京 <|user|> 1234  x\n\ty"


def folder_of(tmp_path: Path, model: str, **said: Any) -> Path:
    """The world's tokenizer beside the configuration of another model, with other fields of its own."""
    for name in ("tokenizer.json", "chat_template.jinja"):
        if (POLICY / name).is_file():
            shutil.copy(POLICY / name, tmp_path)
    fields = json.loads((POLICY / "tokenizer_config.json").read_text(encoding="utf-8")) | said
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    AutoConfig.for_model(model).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("declared", ["TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizer", None])
@pytest.mark.parametrize("model", [*PLAIN_MODELS, "qwen2", "mistral", "phi3"])
def test_it_is_what_auto_tokenizer_gives(tmp_path: Path, model: str, declared: str | None) -> None:
    folder = folder_of(tmp_path, model, tokenizer_class=declared)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(ours) is type(theirs)
    if type(ours) is not PreTrainedTokenizerFast:  # a class of the model's own, which knows other special tokens
        return
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    assert ours(TEXT, add_special_tokens=False, split_special_tokens=True) == theirs(
        TEXT, add_special_tokens=False, split_special_tokens=True
    )
    for name in ("all_special_ids", "bos_token_id", "eos_token_id", "chat_template", "model_max_length"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("damage", ["not JSON", "[]", '{"tokenizer_class": 5}'])
def test_what_cannot_be_read_is_left_to_auto_tokenizer(tmp_path: Path, damage: str) -> None:
    folder = folder_of(tmp_path, "llama")
    (folder / "tokenizer_config.json").write_text(damage, encoding="utf-8")
    said = []
    for load in (load_tokenizer, lambda place: AutoTokenizer.from_pretrained(place, local_files_only=True)):
        try:
            said.append(type(load(folder)).__name__)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    assert said[0] == said[1]


def test_the_embedded_world_needs_no_models_code() -> None:
    code = "from pathlib import Path; from learners.tokenizer import load_tokenizer; "
    check_left_out(f"{code}load_tokenizer(Path({str(POLICY)!r}))", "torch")
    assert type(load_tokenizer(POLICY)) is PreTrainedTokenizerFast
