"""What a trained round leaves behind, as it travels from the learner to the driver.

Without torch and Transformers, which the driver need not import.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from learners.manifest import WeightsManifest
from learners.metrics import RoundMetrics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a round left behind.

    Attributes:
        checkpoint: Its folder, whose weights are full, adapters merged.
        metrics: Of its training.
        weights: What is published, on rank 0: full, or an adapter alone.
        manifest: Of ``weights``.
        merged: Of the checkpoint's weights, by which an endpoint proves them; ``manifest`` itself where full weights
            are published.
    """

    checkpoint: Path
    metrics: RoundMetrics
    weights: dict[str, Tensor]
    manifest: WeightsManifest
    merged: WeightsManifest
