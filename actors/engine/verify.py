"""Proof that published weights arrived whole, and that a model computes with them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from actors.runtime.health import SyncError
from configs.model_config import read_model_config
from learners.weights import WeightsManifest, checksum, from_numpy
from rollout.model_folder import tensors_of

# Largest |difference| of a token's log-probability, nats. vLLM and Transformers differ by about 1e-5 in float32.
_FLOAT32_MAX = 1e-3
# On GPUs vLLM's attention in float32 is Triton's, whose products are in TF32 (10 bits): a right update of the embedded
# world's model of 1 M parameters differed by 3.5e-3 (measured on an H200).
_TF32_MAX = 0.03
# In bfloat16 single tokens differ by up to 0.1, and by more where a model is very sure, so the mean counts: 0.002 to
# 0.012 between right engines (measured). It finds a gross mistake only; small ones are the checksum's business.
_BFLOAT16_MEAN = 0.15
# bfloat16 errors grow with the size of a logit: on the probe's random tokens, about 20 nats each for a vocabulary of
# 262k, a right update of Gemma 3 270M differed by 0.30 a token (measured).
_BFLOAT16_SHARE = 0.05

_TIED_HEAD = "lm_head.weight"


def expected_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that a model folder holds, read from safetensors headers.

    A tied output layer is left out whether the folder stores it or not.

    Raises:
        UserError: The folder has no safetensors files, or a damaged one.
    """
    shapes = {name: entry.shape for name, entry in tensors_of(folder).items()}
    if read_model_config(Path(folder)).get("tie_word_embeddings", False):
        shapes.pop(_TIED_HEAD, None)
    return shapes


def checked_tensors(
    manifest: WeightsManifest, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The published arrays as tensors, unless they are incomplete, of other shapes, or not what was published.

    Args:
        manifest: What was published.
        arrays: Parameter name -> array (bfloat16 as int16).
        shapes: What the model needs (``expected_shapes``).

    Returns:
        Tensors that share the arrays' memory: read them only.

    Raises:
        SyncError: Says which names, or which checksums.
    """
    received = {name: tuple(array.shape) for name, array in arrays.items()}
    absent = sorted(set(manifest.names) - set(received))
    if absent:
        raise SyncError(f"weights of version {manifest.version} came without {absent[:5]}")
    _check_shapes(manifest.version, received, shapes)
    with warnings.catch_warnings():
        # Ray's shared memory is read-only, and nobody here writes to it.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        tensors = from_numpy(arrays, manifest)
    found = checksum(tensors)
    if found != manifest.checksum:
        raise SyncError(
            f"weights of version {manifest.version} have checksum {found}, but {manifest.checksum} was published"
        )
    return tensors


def check_manifest(manifest: WeightsManifest, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that are not the model's before they come.

    Args:
        manifest: What is published.
        shapes: What the model needs (``expected_shapes``).

    Raises:
        SyncError: Says which names.
    """
    _check_shapes(manifest.version, dict(zip(manifest.names, manifest.shapes, strict=True)), shapes)


def _check_shapes(version: int, found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    wrong = sorted(name for name, shape in shapes.items() if found.get(name) != shape)
    unknown = sorted(set(found) - set(shapes) - {_TIED_HEAD})
    if wrong or unknown:
        raise SyncError(
            f"weights of version {version} are not this model's: "
            f"missing or of another shape: {wrong[:5]}; unknown: {unknown[:5]}"
        )


def check_probe(manifest: WeightsManifest, logprobs: Sequence[float], dtype: str, *, tf32: bool = False) -> float:
    """Compare log-probabilities of the probe text with the learner's.

    Args:
        manifest: Holds the learner's.
        logprobs: Ours, one a token of ``manifest.probe_ids`` but the first; nats.
        dtype: Arithmetic of ours; the manifest names that of the learner's, where it is not the same.
        tf32: Whether ours multiplies float32 in TF32, as vLLM's engines on GPUs do in their attention.

    Returns:
        The difference that was judged, nats.

    Raises:
        SyncError: It is too large.
    """
    published = np.asarray(manifest.probe_logprob, np.float64)
    difference = np.abs(np.asarray(logprobs, np.float64) - published)
    exact = dtype == "float32" and manifest.probe_dtype in (None, dtype)
    error = float(difference.max() if exact else difference.mean())
    limit = max(_BFLOAT16_MEAN, _BFLOAT16_SHARE * float(np.abs(published).mean()))
    if exact:
        limit = _TF32_MAX if tf32 else _FLOAT32_MAX
    if not error <= limit:  # also refuses NaN
        raise SyncError(
            f"probe of version {manifest.version}: log-probabilities differ from the learner's by {error:.2e} nats "
            f"a token, more than {limit:g}: the new weights are not what this model computes with"
        )
    return error
