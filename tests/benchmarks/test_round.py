"""What the race makes of a round's timeline."""

from __future__ import annotations

import pytest

from benchmarks.round_ours import stage_seconds


def test_seconds_of_a_stage_count_once_where_several_workers_are_at_it() -> None:
    timeline = {
        "rollout actor 0": {"generate": [0.0, 2.0, 5.0, 6.0], "sync": [9.0, 9.5]},
        "rollout actor 1": {"generate": [1.0, 4.0], "sync": [9.0, 9.25]},
        "learner": {"train": [6.0, 9.0]},
    }
    assert stage_seconds(timeline) == pytest.approx({"generate": 5.0, "sync": 0.5, "train": 3.0})
