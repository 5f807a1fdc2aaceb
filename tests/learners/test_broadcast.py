"""Weights by collective broadcast, over gloo: threads as processes, and real processes where one of them dies."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

import learners.broadcast
from learners.broadcast import RendezvousServer, buckets, receive, send
from learners.errors import BroadcastFailed
from learners.manifest import WeightsManifest
from learners.rendezvous import Rendezvous
from learners.weights import checksum, dtype_name
from tests.kits.imports import check_left_out

CPU = torch.device("cpu")


def weights_of_all_kinds() -> dict[str, Tensor]:
    """Every dtype that a model has, odd sizes, a scalar, nothing at all, and one larger than a bucket."""
    generator = torch.Generator().manual_seed(3)
    return {
        "a.large": torch.randn(70, 33, generator=generator),
        "b.half": torch.randn(7, 3, generator=generator).to(torch.bfloat16),
        "c.scalar": torch.tensor(1.5),
        "d.buffer": torch.arange(5),
        "e.empty": torch.empty(0, 4),
        "f.half": torch.randn(11, generator=generator).to(torch.float16),
        "g.flags": torch.tensor([True, False, True]),
        "h.last": torch.randn(40, 5, generator=generator),
    }


def describe(weights: dict[str, Tensor]) -> WeightsManifest:
    names = tuple(sorted(weights))
    dtypes = tuple(dtype_name(weights[name]) for name in names)
    return WeightsManifest(1, checksum(weights), names, dtypes, tuple(tuple(weights[n].shape) for n in names), (), ())


def outcome(future: Future[None]) -> str:
    """What it raised; empty if nothing."""
    error = future.exception(60)
    return "" if error is None else f"{type(error).__name__}: {error}"


def in_threads(
    weights: dict[str, Tensor],
    manifest: WeightsManifest,
    loads: Sequence[Callable[[dict[str, Tensor]], object]],
    timeout: float = 30,
    during: Callable[[RendezvousServer], None] = lambda host: None,
    absent: int = 0,
) -> list[str]:
    """The outcome at each seat; ``absent`` seats stay empty."""
    with RendezvousServer("127.0.0.1", len(loads) + absent, "gloo", timeout) as host, ThreadPoolExecutor(8) as pool:
        rendezvous = host.rendezvous
        futures = [pool.submit(send, rendezvous, manifest, weights, CPU)]
        futures += [
            pool.submit(receive, rendezvous.seat(1 + index), manifest, CPU, load) for index, load in enumerate(loads)
        ]
        during(host)
        wait(futures)
        return [outcome(future) for future in futures]


def test_everybody_gets_every_tensor_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners.broadcast, "BUCKET_BYTES", 1000)
    weights = weights_of_all_kinds()
    manifest = describe(weights)
    cut = buckets(manifest)
    assert [[slot.name for slot in slots] for slots in cut] == [["a.large"], sorted(weights)[1:]]
    assert all(slot.begin % 16 == 0 for slots in cut for slot in slots)
    taken: list[dict[str, Tensor]] = [{}, {}, {}]
    assert in_threads(weights, manifest, [one.update for one in taken]) == ["", "", "", ""]
    for one in taken:
        assert list(one) == sorted(weights)
        for name, tensor in weights.items():
            assert one[name].dtype == tensor.dtype
            assert one[name].shape == tensor.shape
            assert torch.equal(one[name], tensor)


def test_store_listens_on_one_address_and_closes() -> None:
    def ports() -> dict[int, str]:
        return {c.laddr.port: c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"}

    before = set(ports())
    with RendezvousServer("127.0.0.1", 1, "gloo", 5) as host:
        opened = {port: ip for port, ip in ports().items() if port not in before}
        assert opened == {host.rendezvous.port: "127.0.0.1"}
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", host.rendezvous.port), 1):
        pass


def load(tensors: dict[str, Tensor]) -> None:
    """What a receiver does that keeps nothing."""


def test_what_is_not_as_published_fails_for_all() -> None:
    weights = weights_of_all_kinds()
    manifest = describe(weights)
    other = {**weights, "c.scalar": torch.tensor(1.25)}
    ends = in_threads(other, manifest, [load, load])
    assert all(f"with checksum {checksum(other)}, but {manifest.checksum} was published" in end for end in ends), ends
    assert all(end.startswith("BroadcastFailed") for end in ends)


def test_one_that_cannot_load_ends_it_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners.broadcast, "BUCKET_BYTES", 1000)

    def refuse(tensors: dict[str, Tensor]) -> None:
        raise ValueError("no such parameter")

    weights = weights_of_all_kinds()
    began = time.monotonic()
    sender, other, itself = in_threads(weights, describe(weights), [load, refuse])
    assert itself == "ValueError: no such parameter"
    assert sender == other == "BroadcastFailed: seat 2: no such parameter"
    assert time.monotonic() - began < 15, "waited for the deadline"


def test_one_that_never_comes_ends_at_the_deadline_or_when_the_driver_says_so() -> None:
    weights = weights_of_all_kinds()
    manifest = describe(weights)
    ends = in_threads(weights, manifest, [load], timeout=1, absent=1)
    assert all("not everybody was there within 1 s" in end for end in ends), ends
    ends = in_threads(weights, manifest, [load], during=lambda host: host.abort("rollout 1 died"), absent=1)
    assert ends == ["BroadcastFailed: rollout 1 died"] * 2


def test_no_meeting_is_an_error_with_a_reason() -> None:
    weights = weights_of_all_kinds()
    with RendezvousServer("127.0.0.1", 1, "gloo", 1) as host:
        gone = host.rendezvous
    with pytest.raises(BroadcastFailed, match="seat 0: "):
        send(replace(gone, timeout_s=0.5), describe(weights), weights, CPU)


# Stops for ever, one way or the other, while it holds the first bucket.
RECEIVER = """
import os, pickle, sys
from pathlib import Path
import torch
import learners.broadcast
from learners.broadcast import receive

learners.broadcast.BUCKET_BYTES = 1000
rendezvous, manifest, number = pickle.loads(Path(sys.argv[1]).read_bytes())
receive(rendezvous, manifest, torch.device("cpu"), lambda tensors: os.kill(os.getpid(), number))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_process_that_stops_in_the_middle(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners.broadcast, "BUCKET_BYTES", 1000)
    weights = weights_of_all_kinds()
    manifest = describe(weights)
    timeout = 60 if number == signal.SIGKILL else 8
    with RendezvousServer("127.0.0.1", 2, "gloo", timeout) as host, ThreadPoolExecutor(2) as pool:
        file = tmp_path / "rendezvous"
        file.write_bytes(pickle.dumps((host.rendezvous.seat(2), manifest, number)))
        process = subprocess.Popen(
            [sys.executable, "-c", RECEIVER, str(file)],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            stderr=subprocess.DEVNULL,
        )
        try:
            futures = [
                pool.submit(send, host.rendezvous, manifest, weights, CPU),
                pool.submit(receive, host.rendezvous.seat(1), manifest, CPU, load),
            ]
            if number == signal.SIGKILL:
                process.wait(50)
            began = time.monotonic()
            ends = [outcome(future) for future in futures]
            assert all(end.startswith("BroadcastFailed") for end in ends), ends
            assert time.monotonic() - began < 20
        finally:
            process.kill()
            process.wait(10)


def test_rendezvous_is_plain_data_without_torch() -> None:
    check_left_out("import learners.rendezvous, learners.manifest", "torch")
    assert Rendezvous("h", 1, 3, "gloo", 1.0).seat(2) == Rendezvous("h", 1, 3, "gloo", 1.0, 2)
