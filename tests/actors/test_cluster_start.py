"""A local Ray that does not start: one message, whatever Ray raises; or that is stopped before it is up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import ray

from actors.runtime.cluster import start_cluster
from actors.runtime.signals import StopFlag, StopRequested, stop_on_signals
from configs.errors import UserError
from configs.running import ClusterConfig


@pytest.mark.parametrize(
    "raised",
    [
        Exception("The current node timed out during startup. This could happen because\nof"),
        RuntimeError("Failed to start GCS.  Last 10 lines"),
        OSError(28, "No space left on device"),
        ConnectionError(),
    ],
)
def test_what_ray_raises_on_a_busy_or_full_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """Ray's own texts; the machine itself cannot be made that busy in a test."""

    def init(**_settings: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "init", init)
    first = str(raised).partition("\n")[0] or "ConnectionError"
    with pytest.raises(UserError) as found, start_cluster(ClusterConfig(), tmp_path / "run"):
        pass
    assert str(found.value).startswith(f"Ray could not be started on this machine: {first}\n")
    assert "--resume" in str(found.value)


def test_a_stop_while_ray_starts_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has put its own handler in place by then, which ends the process with its own exit code."""

    def init(**_settings: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _frame: exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    flag = StopFlag()
    with stop_on_signals(flag):
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(StopRequested), start_cluster(ClusterConfig(), tmp_path / "run", should_stop=flag):
            pass
        assert flag.asked_by == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == ours
