"""Everything that runs on Ray, and the driver; a process of a run imports this first."""

from configs.gc_tuning import starting

starting()
