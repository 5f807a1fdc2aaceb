"""The manifest of a model folder that no learner has just published."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from configs.errors import UserError
from learners.checkpoint import STATE_FILE, read_state
from learners.logprobs import LogprobModel, segment_logprobs
from learners.packing import Segment
from learners.weights import PROBE_TOKENS, WeightsManifest, checksum, dtype_name, probe_ids

_TIED_HEAD = "lm_head.weight"


def folder_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a model folder, mapped into memory; a tied output layer is left out where it is stored.

    Raises:
        UserError: There are none.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: has no *.safetensors files; name a Hugging Face model folder or a run folder")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights |= load_file(file)
    return weights


def describe(folder: Path, version: int) -> WeightsManifest:
    """Checksum of a folder's weights, and the log-probabilities that an engine must reproduce with them.

    Loads the model with Transformers, on the CPU.

    Raises:
        UserError: The folder is no model, or its weights are not those that its ``state.json`` names.
    """
    weights = folder_weights(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as a language model ({error})") from None
    if model.config.tie_word_embeddings:
        weights.pop(_TIED_HEAD, None)
    digest = checksum(weights)
    if (Path(folder) / STATE_FILE).is_file() and read_state(Path(folder)).checksum != digest:
        raise UserError(f"{folder}: its weights have another checksum than its {STATE_FILE}; it is damaged")
    ids = probe_ids(digest, model.config.vocab_size)
    segment = Segment(ids[:1], (ids[1:],))
    logprobs = segment_logprobs(LogprobModel(model, PROBE_TOKENS), [segment], PROBE_TOKENS, torch.device("cpu"))[0][0]
    names = tuple(sorted(weights))
    return WeightsManifest(
        version=version,
        checksum=digest,
        names=names,
        dtypes=tuple(dtype_name(weights[name]) for name in names),
        shapes=tuple(tuple(weights[name].shape) for name in names),
        probe_ids=ids,
        probe_logprob=tuple(float(value) for value in logprobs),
    )
