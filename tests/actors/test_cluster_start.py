"""A local Ray that does not start: one message, whatever Ray raises."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from actors.runtime.cluster import start_cluster
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
