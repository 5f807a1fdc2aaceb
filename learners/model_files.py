"""The files of a model folder: written from tensors, and compared with what was saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.atomic import complete_or_absent
from configs.errors import UserError
from configs.model_config import CONFIG_FILE, read_model_config
from learners.checkpoint_layout import ADAPTER_FILE, ADAPTER_FOLDER, read_state
from learners.weights import checksum
from rollout.model_folder import settings_files


def write_model_folder(
    folder: Path, weights: Mapping[str, Tensor], start: Path, dtype: str, chat_template: str | None = None
) -> None:
    """Write a loadable model folder, atomically.

    Args:
        folder: Must not exist.
        weights: Full weights by name, tied ones once.
        start: Folder whose config, tokenizer, chat template and generation config are taken over.
        dtype: What ``config.json`` says the weights are.
        chat_template: In place of that of ``start``.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; remove it or choose another folder")
    with complete_or_absent(folder) as temporary:
        fill_model_folder(temporary, weights, start, dtype, chat_template)


def fill_model_folder(
    folder: Path, weights: Mapping[str, Tensor], start: Path, dtype: str, chat_template: str | None = None
) -> None:
    """Put weights and everything else of a model folder into an existing folder."""
    for file in settings_files(start):
        shutil.copyfile(file, folder / file.name)
    if chat_template is not None:  # read before what tokenizer_config.json may say
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    config = read_model_config(start)
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})


def weights_as_saved(folder: Path, found: str) -> bool:
    """Whether a checkpoint's weights, whose checksum is ``found``, are those that were saved.

    Where a checkpoint names its adapter's checksum only, as they did, the adapter's file is compared instead.

    Raises:
        UserError: ``state.json`` cannot be read.
    """
    state = read_state(folder)
    if found == state.checksum:
        return True
    adapter = folder / ADAPTER_FOLDER / ADAPTER_FILE
    if state.adapter_checksum is not None or not adapter.is_file():
        return False
    try:
        return checksum(load_file(adapter)) == state.checksum
    except (OSError, SafetensorError):
        return False
