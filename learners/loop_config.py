"""What a rank of the learner is told when it starts: plain data, without torch, for the driver and Ray Train too."""

from __future__ import annotations

from dataclasses import dataclass

from configs.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """What a rank needs to know; plain data, sent by Ray.

    With ``broadcasts`` rank 0 keeps published weights, to send them, and does not put them into the object store.
    """

    mailbox: str
    namespace: str
    run_dir: str
    start: str
    start_round: int
    seed: int
    min_free_disk_gb: float
    broadcasts: bool
    learner: JsonObject
    model: JsonObject
    plugins: dict[str, str]
