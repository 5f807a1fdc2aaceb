"""What a node's metrics page says of this project, and whether it says it under the names and labels of the table."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from actors.observe.telemetry import METRICS, exported_names

PREFIX = "ray_isogloss_"


@dataclass(frozen=True)
class Sample:
    """One series: exported name and our own labels; Ray's begin with a capital, or with ``otel_``."""

    name: str
    labels: frozenset[tuple[str, str]]

    def __getitem__(self, label: str) -> str:
        return dict(self.labels)[label]


def samples(page: str) -> dict[Sample, float]:
    """Value of every series of ours on a page in Prometheus' text format."""
    found = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            if one.name.startswith(PREFIX):
                ours = {(key, value) for key, value in one.labels.items() if key[0].islower() and key[:5] != "otel_"}
                found[Sample(one.name, frozenset(ours))] = float(one.value)
    return found


def wrong_labels(found: dict[Sample, float]) -> list[str]:
    """Series whose labels are not those that the table promises, and so the dashboard asks for."""
    promised = {
        name: {*entry.all_labels, *({"le"} if name.endswith("_bucket") else ())}
        for metric, entry in METRICS.items()
        for name in exported_names(metric)
    }
    return [str(one) for one in found if {key for key, _ in one.labels} != promised.get(one.name)]
