"""Full weights from the learner's rank 0 to all engines by collective broadcasts: NCCL between GPUs, gloo otherwise.

A group is formed for each broadcast and let go afterwards, so engines may come and go between rounds, and nobody keeps
a connection to somebody who died. The driver holds the store in which the processes find each other. A process that
gives up says so there, and all others stop waiting: a broadcast ends for everybody, or for nobody
(``BroadcastFailed``), at the latest at its deadline. The caller then has the object store's way.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor

from learners.errors import BroadcastFailed
from learners.manifest import WeightsManifest
from learners.rendezvous import Rendezvous
from learners.weights import BUCKET_BYTES, Digest, in_buckets

dist: Any = torch.distributed  # not all of its classes are known to type checkers

# Tensors of one buffer begin at multiples of this, so that any dtype can be looked at in place.
_ALIGNMENT = 16

# Between two looks: whether a collective is done, and whether somebody gave up.
_POLL_S = 0.0005
_LOOK_S = 0.2

_HERE, _DONE, _ABORTED = "here", "done", "aborted"


@dataclass(frozen=True, slots=True)
class Slot:
    """Place of a tensor in the buffer of its bucket."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # bytes
    end: int

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor in ``buffer`` (uint8), not a copy."""
        return buffer[self.begin : self.end].view(self.dtype).view(self.shape)


def buckets(manifest: WeightsManifest) -> list[list[Slot]]:
    """How the weights are cut into buffers of ``BUCKET_BYTES`` or one tensor: the same for all who know the manifest.

    Args:
        manifest: What is published.
    """
    tensors = [
        (name, getattr(torch, dtype), shape)
        for name, dtype, shape in zip(manifest.names, manifest.dtypes, manifest.shapes, strict=True)
    ]
    found = []
    for bucket in in_buckets(tensors, lambda one: _room(one[1], one[2]), BUCKET_BYTES):
        begin, slots = 0, []
        for name, dtype, shape in bucket:
            slots.append(Slot(name, dtype, shape, begin, begin + _bytes(dtype, shape)))
            begin += _room(dtype, shape)
        found.append(slots)
    return found


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * torch.Size(shape).numel()


def _room(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return -(-_bytes(dtype, shape) // _ALIGNMENT) * _ALIGNMENT


class RendezvousServer:
    """The driver's part: the store, open until the ``with`` block ends.

    It listens on one address alone, which for a run on one machine is the loopback.

    Args:
        address: Of this process, as the others reach it.
        receivers: Processes that receive.
        backend: "nccl" or "gloo".
        timeout_s: Deadline of the broadcast, in seconds.
    """

    def __init__(self, address: str, receivers: int, backend: Literal["gloo", "nccl"], timeout_s: float) -> None:
        listening = socket.create_server((address, 0), backlog=receivers + 1)
        port = listening.getsockname()[1]
        # PyTorch would listen on all interfaces: it gets a socket that is bound already, and closes it.
        self._store = dist.TCPStore(
            address, port, None, True, timedelta(seconds=timeout_s), wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )  # fmt: skip
        self.rendezvous = Rendezvous(address, port, receivers + 1, backend, timeout_s)

    def __enter__(self) -> RendezvousServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._store = None  # closes it

    def abort(self, reason: str) -> None:
        """Tell everybody to stop waiting."""
        self._store.set(_ABORTED, reason)


def send(
    rendezvous: Rendezvous, manifest: WeightsManifest, weights: Mapping[str, Tensor], device: torch.device
) -> None:
    """Give weights to everybody; returns when all have them, with the right checksum.

    Args:
        rendezvous: Seat 0 of it.
        manifest: What is published.
        weights: Full weights by name, where they are.
        device: Of this process: NCCL sends from there, gloo from the CPU.

    Raises:
        BroadcastFailed: Somebody gave up, died, or was too slow.
    """
    with _joined(rendezvous) as group:
        for slots in buckets(manifest):
            buffer = _buffer(rendezvous, slots, device)
            for slot in slots:
                slot.view(buffer).copy_(weights[slot.name])
            group.broadcast(buffer)


def receive(
    rendezvous: Rendezvous, manifest: WeightsManifest, device: torch.device, load: Callable[[dict[str, Tensor]], object]
) -> None:
    """Take weights, a bucket at a time; returns when everybody has them all.

    Args:
        rendezvous: With the seat of this process.
        manifest: What is published.
        device: Of this process: NCCL puts the tensors there, gloo on the CPU.
        load: Takes tensors by name. They are nobody else's memory, so they may be kept.

    Raises:
        BroadcastFailed: Somebody gave up, died, or was too slow, or what came does not have the manifest's checksum:
            a part or all of the weights may have been loaded.
    """
    digest = Digest()
    with _joined(rendezvous) as group:
        for slots in buckets(manifest):
            buffer = _buffer(rendezvous, slots, device)
            group.broadcast(buffer)
            tensors = {slot.name: slot.view(buffer) for slot in slots}
            on_cpu = buffer.cpu()
            for slot in slots:
                digest.add(slot.name, slot.view(on_cpu))
            load(tensors)
        if digest.hex() != manifest.checksum:
            raise BroadcastFailed(
                f"weights of version {manifest.version} came with checksum {digest.hex()}, but {manifest.checksum} "
                "was published"
            )


def _buffer(rendezvous: Rendezvous, slots: list[Slot], device: torch.device) -> Tensor:
    place = device if rendezvous.backend == "nccl" else torch.device("cpu")
    # Never without a byte: collectives want something to send.
    return torch.empty(max(slots[-1].end, 1), dtype=torch.uint8, device=place)


@contextlib.contextmanager
def _joined(rendezvous: Rendezvous) -> Iterator[_Group]:
    """A group for the block; an error in it is told to all others."""
    try:
        group = _Group(rendezvous)
    except (RuntimeError, OSError) as error:  # c10d's errors are RuntimeErrors
        raise BroadcastFailed(f"seat {rendezvous.rank}: {error}") from error
    try:
        group.meet()
        yield group
        group.end()
    except BaseException as error:
        # Of c10d's errors the first sentence, which says what happened; general advice follows it.
        first = group.abort(f"seat {rendezvous.rank}: {str(error).split('. ')[0]}")
        group.abandon()
        if isinstance(error, RuntimeError) and not isinstance(error, BroadcastFailed):
            raise BroadcastFailed(first) from error  # a broken connection is what follows from another's reason
        raise


class _Group:
    """A process group beside those that the process has: of torch's classes themselves, without global state."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self._rendezvous = rendezvous
        self._deadline = time.monotonic() + rendezvous.timeout_s
        self._timeout = timedelta(seconds=rendezvous.timeout_s)
        self._store = dist.TCPStore(
            rendezvous.host, rendezvous.port, None, False, self._timeout, wait_for_workers=False
        )
        self._look_at = 0.0
        self._group: Any = None

    def meet(self) -> None:
        """Wait until everybody is there, so that forming the group keeps nobody longer than it takes."""
        self._wait_for_all(_HERE)
        store = dist.PrefixStore("group", self._store)
        if self._rendezvous.backend == "nccl":
            nccl = dist.ProcessGroupNCCL.Options()
            nccl._timeout = 2 * self._timeout  # at its own, PyTorch ends the process
            self._group = dist.ProcessGroupNCCL(store, self._rendezvous.rank, self._rendezvous.size, nccl)
            return
        options = dist.ProcessGroupGloo._Options()
        options._timeout = self._timeout
        # By default it takes what the machine's name resolves to.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_own_address(self._rendezvous))]
        self._group = dist.ProcessGroupGloo(store, self._rendezvous.rank, self._rendezvous.size, options)

    def broadcast(self, buffer: Tensor) -> None:
        """Fill everybody's ``buffer`` with that of seat 0."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        work = self._group.broadcast([buffer], options)
        while not work.is_completed():
            self._look()
            time.sleep(_POLL_S)
        work.wait()  # raises what went wrong
        if buffer.is_cuda:
            torch.cuda.synchronize(buffer.device)

    def end(self) -> None:
        """Wait until everybody has everything, and close the connections."""
        self._wait_for_all(_DONE)
        self._group.shutdown()

    def abandon(self) -> None:
        """Close the connections, whatever is still on its way."""
        if self._group is not None:
            # Gloo's group waits for its operation when it goes: somewhere else, then.
            threading.Thread(target=_abort, args=(self._group,), daemon=True).start()
            self._group = None

    def abort(self, reason: str) -> str:
        """Tell the others; the first reason, which stays."""
        try:
            first: bytes = self._store.compare_set(_ABORTED, "", reason)
        except RuntimeError:  # the driver, and its store, may be what is gone
            return reason
        return first.decode()

    def _wait_for_all(self, what: str) -> None:
        self._store.add(what, 1)
        while self._store.add(what, 0) < self._rendezvous.size:
            self._look()
            time.sleep(10 * _POLL_S)

    def _look(self) -> None:
        now = time.monotonic()
        if now > self._deadline:
            raise BroadcastFailed(f"not everybody was there within {self._rendezvous.timeout_s:g} s")
        if now > self._look_at:
            self._look_at = now + _LOOK_S
            if self._store.check([_ABORTED]):
                raise BroadcastFailed(self._store.get(_ABORTED).decode())


def _abort(group: Any) -> None:
    with contextlib.suppress(RuntimeError):
        group.abort()


def _own_address(rendezvous: Rendezvous) -> str:
    """This machine's address on the way to the store; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((rendezvous.host, rendezvous.port))
        address: str = probe.getsockname()[0]
        return address
