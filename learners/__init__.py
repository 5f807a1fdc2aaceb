"""Everything that changes weights: losses, packing, the session, checkpoints, the Ray Train group."""

from configs.collector import starting

starting()
