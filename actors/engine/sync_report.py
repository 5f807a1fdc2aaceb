"""What an actor says of a weight update: a record without torch, which the driver need not load for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class SyncReport:
    """A weight update that was verified.

    Attributes:
        version: Weight version now in use.
        probe_error: Difference to the learner's log-probabilities of the probe text, nats per token (largest
            in float32, mean in bfloat16).
        seconds: Where the time went: "fetch", "check", "load", "probe", "total" (those that apply).
    """

    version: int
    probe_error: float
    seconds: dict[str, float]

    def to_json(self) -> dict[str, object]:
        """For the metrics of a round."""
        return asdict(self)
