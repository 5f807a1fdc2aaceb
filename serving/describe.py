"""The manifest of a model folder that no learner has just published."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from learners.checkpoint_layout import STATE_FILE, read_manifest
from learners.logprobs import LogprobModel
from learners.model_files import weights_as_saved
from learners.weights import PROBE_TOKENS, WeightsManifest, checksum, describe_weights, dtype_name
from rollout.model_folder import weight_files

_TIED_HEAD = "lm_head.weight"


def folder_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a model folder, mapped into memory; a tied output layer is left out where it is stored.

    Raises:
        UserError: There are none, or the index is damaged.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        weights |= load_file(file)
    return weights


def described(folder: Path, version: int) -> WeightsManifest:
    """The manifest of a checkpoint as its learner wrote it; where there is none, ``describe``.

    The replicas compare it with the weights that they load, so no weights are read here.

    Raises:
        UserError: As ``describe``.
    """
    return read_manifest(Path(folder), version) or describe(folder, version)


def describe(folder: Path, version: int) -> WeightsManifest:
    """Checksum of a folder's weights, and the log-probabilities that an engine must reproduce with them.

    Loads the model with Transformers, on the CPU.

    Raises:
        UserError: The folder is no model, or its weights are not those that its ``state.json`` names.
    """
    weights = folder_weights(folder)
    disable_progress_bar()  # a job's log would show it as lines
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as a language model ({error})") from None
    if model.config.tie_word_embeddings:
        weights.pop(_TIED_HEAD, None)
    digest = checksum(weights)
    if (Path(folder) / STATE_FILE).is_file() and not weights_as_saved(Path(folder), digest):
        raise UserError(f"{folder}: its weights have another checksum than its {STATE_FILE}; it is damaged")
    scorer = LogprobModel(model, PROBE_TOKENS)
    dtype, place = dtype_name(scorer.head.weight), torch.device("cpu")
    return describe_weights(version, weights, digest, scorer, model.config.vocab_size, dtype=dtype, place=place)
