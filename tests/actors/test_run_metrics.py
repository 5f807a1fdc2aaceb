"""What is exported of a run's events, without Ray: its metrics are replaced by ones that remember."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from actors.observe import telemetry
from actors.observe.run_metrics import RunMetrics
from serving.replica import PolicyReplica

Labels = frozenset[tuple[str, str]]


class Page:
    """What a scrape would show: sets since ``clear``, and all counts."""

    def __init__(self) -> None:
        self.gauges: dict[tuple[str, Labels], float] = {}
        self.counters: dict[tuple[str, Labels], float] = {}

    def metric(self, name: str) -> Any:
        def put(value: float, tags: dict[str, str]) -> None:
            self.gauges[name, frozenset(tags.items())] = value

        def add(value: float, tags: dict[str, str]) -> None:
            key = name, frozenset(tags.items())
            self.counters[key] = self.counters.get(key, 0.0) + value

        return SimpleNamespace(set=put, inc=add, observe=add)

    def of(self, name: str, label: str) -> dict[str, float]:
        """Values of a metric by one of its labels."""
        both = {**self.gauges, **self.counters}
        return {dict(tags)[label]: value for (found, tags), value in both.items() if found == name}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    found = Page()
    monkeypatch.setattr(telemetry, "REFRESH_S", 0.01)
    for kind in ("Gauge", "Counter", "Histogram"):
        monkeypatch.setattr(f"ray.util.metrics.{kind}", lambda name, *_rest: found.metric(name))
    return found


@pytest.fixture
def run(page: Page) -> Iterator[RunMetrics]:
    made = RunMetrics("r", 3)
    yield made
    made.close()


def shown_again(page: Page) -> None:
    """Forget what was set and wait for the next beat."""
    page.gauges.clear()
    deadline = time.monotonic() + 5
    while not page.of("isogloss_rounds", "run"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.02)


def counts(reward: float) -> dict[str, Any]:
    return {
        "groups_by_language": {},
        "pairs_by_language": {"es": 2},
        "reward_mean": {"es": reward},
        "reward_terms": {"language": {"es": reward}},
    }


def test_gauges_are_set_again_until_the_run_is_over(run: RunMetrics, page: Page) -> None:
    run.begun(2)
    shown_again(page)
    assert page.of("isogloss_stage", "stage") == {"starting": 1}
    assert page.of("isogloss_weight_version", "run") == {"r": 2}
    run.stage("sampling", 3)
    shown_again(page)
    assert page.of("isogloss_stage", "stage") == {"starting": 0, "sampling": 1}
    run.close()
    page.gauges.clear()
    time.sleep(0.05)
    assert page.gauges == {}


def test_a_gauge_of_one_version_gives_way_to_the_next(run: RunMetrics, page: Page) -> None:
    run.paired(counts(0.9), sampled_with=0, staleness=0)
    run.paired(counts(0.1), sampled_with=1, staleness=0)
    shown_again(page)
    assert page.of("isogloss_reward_mean", "version") == {"1": 0.1}
    assert page.of("isogloss_reward_term_mean", "term") == {"language": 0.1}
    assert page.of("isogloss_pairs", "version") == {"0": 2, "1": 2}


def test_tokens_a_second_are_those_of_the_sampling_that_began_last(run: RunMetrics, page: Page) -> None:
    def chunk(language: str, tokens: int) -> Any:
        return SimpleNamespace(key=SimpleNamespace(language=language), weight_version=0, token_ids=range(tokens))

    for round in (1, 2):
        run.stage("sampling", round)
        begun = time.monotonic()
        time.sleep(0.05)
        run.sampled([chunk("es", 300), chunk("es", 200), chunk("sw", 50)])
        rates = page.of("isogloss_tokens_per_second", "language")
        assert rates["es"] == pytest.approx(10 * rates["sw"])
        assert 500 / (time.monotonic() - begun) <= rates["es"] <= 500 / 0.05
    assert page.of("isogloss_tokens", "language") == {"es": 1000, "sw": 100}


def test_offline_slices_and_decisions_of_the_gate_are_counted(run: RunMetrics, page: Page) -> None:
    run.sliced({"es": 3})
    run.offered("refused")
    assert page.of("isogloss_pairs", "version") == {"file": 3}
    assert page.of("isogloss_serve_decisions", "outcome") == {"refused": 1}


def test_a_replica_says_which_version_it_serves_and_as_what(page: Page) -> None:
    exported = telemetry.Telemetry("endpoint", "m")
    replica: Any = SimpleNamespace(_exported=exported, _id="a", _assigned=SimpleNamespace(canary={"version": "v2"}))
    PolicyReplica._show_version(replica, 1)
    assert page.of("isogloss_served_version", "role") == {"current": 1}
    PolicyReplica._show_version(replica, 2)
    replica._assigned.canary = None  # promoted
    PolicyReplica._show_version(replica, 2)
    page.gauges.clear()
    time.sleep(0.1)
    assert page.of("isogloss_served_version", "role") == {"current": 2}
    assert page.of("isogloss_served_version", "endpoint") == {"m": 2}
    given_up: Any = SimpleNamespace(manifest=SimpleNamespace(version=3))
    PolicyReplica._swapped(replica, given_up, "given up")
    PolicyReplica._count(replica, "v2-v3", 200)
    assert page.of("isogloss_serve_swaps", "version") == {"v3": 1}
    assert page.of("isogloss_serve_requests", "version") == {"v2-v3": 1}
    exported.close()


def test_an_endpoint_s_metric_is_not_a_run_s() -> None:
    of_run = telemetry.Telemetry("run", "r")
    with pytest.raises(TypeError, match="isogloss_served_version is a gauge of the endpoint, not a gauge of the run"):
        of_run.set("isogloss_served_version", 1, replica="a", role="current")
    of_run.close()
