"""Every metric of a run that Ray exports for Prometheus, and the only place that defines them.

``/metrics`` of a node shows them as ``ray_<name>``, counters with ``_total`` as Prometheus wants it, histograms as
``_bucket``, ``_sum`` and ``_count``. ``deploy/grafana/isogloss.json`` draws them. Every metric of a run has a label
``run`` besides its own, and every metric of an endpoint a label ``endpoint`` (the model's name in requests), since
several may share a cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from configs.json_types import JsonObject

Kind = Literal["gauge", "counter", "histogram"]

# Seconds; from a cached token to a slow generation.
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
REFRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is, and its labels besides the owner's."""

    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    owner: Literal["run", "endpoint"] = "run"  # set by the driver, or by the serving replicas

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Every label, the owner's first."""
        return self.owner, *self.labels


METRICS: dict[str, Metric] = {
    "isogloss_stage": Metric("gauge", "1 for the stage that the driver is in, 0 for the others.", ("stage",)),
    "isogloss_round": Metric("gauge", "Round that the driver works at, from 1; 0 before the first."),
    "isogloss_rounds": Metric("gauge", "Rounds that the run has in all."),
    "isogloss_tokens": Metric("counter", "Completion tokens sampled.", ("language", "version")),
    "isogloss_tokens_per_second": Metric(
        "gauge", "Completion tokens a second of the newest round's sampling.", ("language",)
    ),
    "isogloss_candidates": Metric("counter", "Answers and translations sampled.", ("language", "version")),
    "isogloss_gate_outcomes": Metric(
        "counter", "Candidates by what the gates said: ok or why refused.", ("language", "gate", "version")
    ),
    "isogloss_pairs": Metric(
        "counter", "Preference pairs (or, for RLOO, sample groups) mined.", ("language", "version")
    ),
    "isogloss_reward_mean": Metric("gauge", "Mean reward of a round's scored candidates.", ("language", "version")),
    "isogloss_reward_term_mean": Metric(
        "gauge", "Mean of a term of a round's reward, before scale and weight.", ("term", "language", "version")
    ),
    "isogloss_queue_depth": Metric("gauge", "Calls of a pool: queued, or running on an actor.", ("pool", "state")),
    "isogloss_engine_state": Metric("gauge", "1 for the state that an actor is in: idle, busy.", ("actor", "state")),
    "isogloss_engine_version": Metric("gauge", "Weight version that the actors of a pool compute with.", ("pool",)),
    "isogloss_actor_restarts": Metric("gauge", "Actors of a pool that died and were replaced.", ("pool",)),
    "isogloss_weight_version": Metric("gauge", "Newest weight version that the learner has made."),
    "isogloss_staleness": Metric("gauge", "Rounds that the newest samples' weights were older than the learner's."),
    "isogloss_loss": Metric("gauge", "Loss of a round's first and last step.", ("step",)),
    "isogloss_reward_margin": Metric("gauge", "Learner's reward margin, chosen over rejected.", ("language",)),
    "isogloss_reward_accuracy": Metric("gauge", "Share of pairs that the learner ranks rightly.", ("language",)),
    "isogloss_sampling_mismatch": Metric(
        "gauge",
        "Difference between the sampler's and the learner's log-probability of a token under the same weights, nats.",
        ("language",),
    ),
    "isogloss_grad_norm": Metric("gauge", "Largest gradient norm of a round, before clipping."),
    "isogloss_learner_tokens_per_second": Metric("gauge", "Tokens that the learner trains on a second."),
    "isogloss_sync_seconds": Metric("histogram", "Time for new weights into one actor, proof included.", ("version",)),
    "isogloss_heldout_accuracy": Metric("gauge", "Sampled accuracy on held-out prompts.", ("language", "version")),
    "isogloss_heldout_right_language": Metric(
        "gauge", "Share of held-out answers in the right language.", ("language", "version")
    ),
    "isogloss_serve_decisions": Metric(
        "counter", "Versions that the gate of the endpoint promoted, made the canary, or refused.", ("outcome",)
    ),
    "isogloss_served_version": Metric(
        "gauge",
        "Weight version that a replica serves, as the current one or as the canary.",
        ("replica", "role"),
        "endpoint",
    ),
    "isogloss_serve_swaps": Metric(
        "counter",
        "Attempts of a replica to swap in a version: loaded, or given up.",
        ("version", "outcome"),
        "endpoint",
    ),
    "isogloss_serve_requests": Metric("counter", "Served requests.", ("version", "status"), "endpoint"),
    "isogloss_serve_request_seconds": Metric("histogram", "Time of a served request.", ("version",), "endpoint"),
}


def exported_names(name: str) -> tuple[str, ...]:
    """Names under which Prometheus sees a metric of the table."""
    kind = METRICS[name].kind
    if kind == "counter":
        return (f"ray_{name}_total",)
    if kind == "histogram":
        return tuple(f"ray_{name}_{part}" for part in ("bucket", "sum", "count"))
    return (f"ray_{name}",)


class Telemetry:
    """Sets the metrics of a run or of an endpoint; they leave through the node that this process runs on.

    A thread sets all gauges again once a second until ``close``: Ray's agent drops those of which it hears nothing for
    two exports, and who sets them may wait for minutes for actors to start or for weights to arrive.

    Needs an initialised Ray, and must be closed before Ray is left.

    Args:
        owner: Whose: ``run`` or ``endpoint``.
        name: Value of that label.
    """

    def __init__(self, owner: Literal["run", "endpoint"], name: str) -> None:
        self._owner, self._name = owner, name
        self._made: JsonObject = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._stage: str | None = None
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="telemetry", daemon=True)
        self._heart.start()

    def set(self, name: str, value: float | None, **labels: object) -> None:
        """Set a gauge; None (not known) leaves it as it is."""
        if value is not None:
            tags = self._labels(labels)
            with self._lock:
                self._metric(name, "gauge").set(float(value), tags)
                self._gauges[name, tuple(sorted(tags.items()))] = float(value)

    def forget(self, name: str, **labels: object) -> None:
        """No longer set a gauge again where it has these labels; it vanishes after two exports."""
        gone = {(key, str(value)) for key, value in labels.items()}
        with self._lock:
            for key in [key for key in self._gauges if key[0] == name and gone <= set(key[1])]:
                del self._gauges[key]

    def count(self, name: str, amount: float, **labels: object) -> None:
        """Add to a counter."""
        if amount > 0:
            with self._lock:
                self._metric(name, "counter").inc(float(amount), self._labels(labels))

    def observe(self, name: str, seconds: float, **labels: object) -> None:
        """Add a sample to a histogram."""
        with self._lock:
            self._metric(name, "histogram").observe(seconds, self._labels(labels))

    def stage(self, name: str) -> None:
        """The driver is in another stage now."""
        if self._stage not in (None, name):
            self.set("isogloss_stage", 0, stage=self._stage)
        self.set("isogloss_stage", 1, stage=name)
        self._stage = name

    def close(self) -> None:
        """End the thread; safe to call more than once."""
        self._closed.set()
        self._heart.join()

    def _beat(self) -> None:
        while not self._closed.wait(REFRESH_S):
            with self._lock:
                for (name, tags), value in self._gauges.items():
                    self._made[name].set(value, dict(tags))

    def _labels(self, labels: Mapping[str, object]) -> dict[str, str]:
        return {self._owner: self._name, **{key: str(value) for key, value in labels.items()}}

    def _metric(self, name: str, kind: Kind) -> Any:
        if name not in self._made:
            from ray.util import metrics

            entry = METRICS[name]
            if (entry.kind, entry.owner) != (kind, self._owner):
                raise TypeError(f"{name} is a {entry.kind} of the {entry.owner}, not a {kind} of the {self._owner}")
            if kind == "histogram":
                self._made[name] = metrics.Histogram(name, entry.description, list(BUCKETS), entry.all_labels)
            elif kind == "counter":
                self._made[name] = metrics.Counter(name, entry.description, entry.all_labels)
            else:
                self._made[name] = metrics.Gauge(name, entry.description, entry.all_labels)
        return self._made[name]
