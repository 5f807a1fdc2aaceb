"""Everything that changes weights: losses, packing, the session, checkpoints, the Ray Train group."""

from configs.gc_tuning import starting

starting()
