"""Full weights of the learner, and the manifest that lets an engine prove it computes with them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from learners.distributed import device, gather_objects, load_deepspeed, world
from learners.lora import AdaptedLayer, base_name, is_adapter, merged, tensor_names
from learners.manifest import WeightsManifest as WeightsManifest

T = TypeVar("T")

# Gathered at once under ZeRO-3, per rank, on top of what training holds.
BUCKET_BYTES = 256 * 1024**2

# Length of the sequence that an engine has to score alike.
PROBE_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor to gather: a parameter as it is, or with the adapter of its layer added."""

    name: str
    parameter: nn.Parameter
    adapter: AdaptedLayer | None = None

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All that the tensor is computed from."""
        return (self.parameter,) if self.adapter is None else (self.parameter, self.adapter.a, self.adapter.b)

    def value(self) -> Tensor:
        """The tensor, contiguous on the CPU and nobody else's memory."""
        if self.adapter is None:
            return _on_cpu(self.parameter)
        return _on_cpu(merged(self.parameter, self.adapter.a, self.adapter.b, self.adapter.scale))


def gather_weights(
    model: nn.Module,
    partitioned: bool,
    adapters: Mapping[str, AdaptedLayer] | None = None,
    bucket_bytes: int = BUCKET_BYTES,
) -> dict[str, Tensor]:
    """Full weights by name on rank 0, contiguous on the CPU; empty elsewhere. Called by every rank.

    Tied weights are there once, under the name of the first (the embedding). Persistent buffers are included. Adapters
    are added to their layers' weights, under the names of the model without them; what is trained is not touched.

    Args:
        model: The language model.
        partitioned: ZeRO-3: weights are gathered bucket by bucket.
        adapters: The model's adapted layers, by name.
        bucket_bytes: Size of a bucket.
    """
    rank, _ = world()
    layers = {f"{layer}.weight": adapted for layer, adapted in (adapters or {}).items()}
    parameters = list(model.named_parameters())  # tied ones are named once
    pieces = [
        Piece(base_name(name), parameter, layers.get(base_name(name)))
        for name, parameter in parameters
        if not is_adapter(name)
    ]
    weights = _gather(pieces, partitioned, bucket_bytes)
    if rank == 0:
        known = {id(parameter) for _, parameter in parameters}
        tied = {name for name, value in model.named_parameters(remove_duplicate=False) if id(value) in known}
        for name, buffer in model.state_dict().items():
            if name not in tied:
                weights[base_name(name)] = _on_cpu(buffer)
    return weights


def gather_adapter(adapters: Mapping[str, AdaptedLayer], partitioned: bool) -> dict[str, Tensor]:
    """The adapters' tensors, by the names of peft's files, on rank 0; empty elsewhere. Called by every rank."""
    pieces = [
        Piece(name, parameter)
        for layer, adapted in adapters.items()
        for name, parameter in zip(tensor_names(layer), (adapted.a, adapted.b), strict=True)
    ]
    return _gather(pieces, partitioned, BUCKET_BYTES)


def _gather(pieces: Sequence[Piece], partitioned: bool, bucket_bytes: int) -> dict[str, Tensor]:
    rank, _ = world()
    if not partitioned:
        return {piece.name: piece.value() for piece in pieces} if rank == 0 else {}
    deepspeed = load_deepspeed()
    weights: dict[str, Tensor] = {}
    for bucket in in_buckets(pieces, _gathered_bytes, bucket_bytes):
        with deepspeed.zero.GatheredParameters([parameter for piece in bucket for parameter in piece.parameters]):
            if rank == 0:
                weights |= {piece.name: piece.value() for piece in bucket}
    return weights


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _gathered_bytes(piece: Piece) -> int:
    # DeepSpeed: numel() of a partition is 0
    return sum(one.ds_numel * one.element_size() for one in piece.parameters)  # type: ignore[attr-defined]


def in_buckets(items: Iterable[T], size: Callable[[T], int], most: int) -> list[list[T]]:
    """Items in their order, cut so that a bucket has at most the size ``most`` or one item.

    Args:
        items: What to cut.
        size: Of an item: bytes, or elements.
        most: Of a bucket, in the same unit.
    """
    buckets: list[list[T]] = []
    filled = 0
    for item in items:
        if not buckets or filled + size(item) > most:
            buckets.append([])
            filled = 0
        buckets[-1].append(item)
        filled += size(item)
    return buckets


def dtype_name(tensor: Tensor) -> str:
    """``float32`` for ``torch.float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def to_numpy(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Arrays that share memory with the tensors; bfloat16, which numpy lacks, as an int16 view."""
    return {
        name: (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        for name, tensor in tensors.items()
    }


def from_numpy(arrays: Mapping[str, np.ndarray], manifest: WeightsManifest) -> dict[str, Tensor]:
    """Undo ``to_numpy``; the tensors share the arrays' memory, which may be read-only."""
    tensors: dict[str, Tensor] = {}
    for name, dtype in zip(manifest.names, manifest.dtypes, strict=True):
        array = arrays[name]
        with warnings.catch_warnings():
            # Shared memory of an object store is read-only: fine, as nobody writes to the tensor.
            warnings.filterwarnings("ignore", message="The given .* is not writable")
            tensors[name] = torch.from_numpy(array).view(getattr(torch, dtype))
    return tensors


class Digest:
    """Checksum of weights that come one after the other, in the order of their names."""

    def __init__(self) -> None:
        self._digest = xxhash.xxh64()

    def add(self, name: str, tensor: Tensor) -> None:
        """Count in one tensor: name, dtype, shape and bytes."""
        tensor = tensor.detach().cpu().contiguous()
        self._digest.update(json.dumps([name, dtype_name(tensor), list(tensor.shape)]).encode())
        self._digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]

    def hex(self) -> str:
        """What was counted in so far, as 16 hexadecimal digits."""
        return self._digest.hexdigest()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """xxh64 over sorted names, dtypes, shapes and bytes, as 16 hexadecimal digits."""
    digest = Digest()
    for name in sorted(tensors):
        digest.add(name, tensors[name])
    return digest.hex()


def probe_ids(digest: str, vocabulary: int) -> tuple[int, ...]:
    """Token ids derived from the checksum: nobody can have computed the answer in advance."""
    state = int(digest, 16)
    ids = []
    for index in range(PROBE_TOKENS):
        state = xxhash.xxh64(f"{state}/{index}".encode()).intdigest()
        ids.append(state % vocabulary)
    return tuple(ids)


def make_manifest(
    version: int, weights: Mapping[str, Tensor], scorer: nn.Module, vocabulary: int, dtype: str
) -> WeightsManifest:
    """Describe weights and score the probe with them. Called by every rank: under ZeRO-3 scoring is
    collective.

    Args:
        version: Round that produced the weights.
        weights: Full weights on rank 0; other ranks pass what they have, and their manifest is void.
        scorer: A ``LogprobModel`` or the engine around it.
        vocabulary: Ids below this are valid.
        dtype: The scorer's arithmetic.
    """
    digest = gather_objects(checksum(weights))[0]
    return describe_weights(version, weights, digest, scorer, vocabulary, dtype=dtype, place=device())


def describe_weights(
    version: int,
    weights: Mapping[str, Tensor],
    digest: str,
    scorer: nn.Module,
    vocabulary: int,
    *,
    dtype: str,
    place: torch.device,
) -> WeightsManifest:
    """The manifest of weights whose checksum is known.

    Args:
        version: Round that produced the weights.
        weights: Full weights, or an adapter's.
        digest: Their checksum.
        scorer: A ``LogprobModel`` or the engine around it.
        vocabulary: Ids below this are valid.
        dtype: The scorer's arithmetic, as torch spells it.
        place: Where the scorer computes.
    """
    ids = probe_ids(digest, vocabulary)
    # Late: engines import this module for checksums, and Transformers' models would cost each of them seconds.
    from learners.logprobs import segment_logprobs
    from learners.packing import Segment

    logprobs = segment_logprobs(scorer, [Segment(ids[:1], (ids[1:],))], PROBE_TOKENS, place)[0][0]
    names = tuple(sorted(weights))
    return WeightsManifest(
        version=version,
        checksum=digest,
        names=names,
        dtypes=tuple(dtype_name(weights[name]) for name in names),
        shapes=tuple(tuple(weights[name].shape) for name in names),
        probe_ids=ids,
        probe_logprob=tuple(float(value) for value in logprobs),
        probe_dtype=dtype,
    )
