"""What replicas, coordinator and commands tell each other of an endpoint: plain dictionaries, some of them on disk."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ShownVersion(TypedDict):
    """A version as ``/v1/models`` shows it: ``v3``."""

    version: str
    checksum: str


class ServedVersion(TypedDict):
    """A version in ``serving.json``."""

    version: int
    checksum: str


class WantedVersions(TypedDict):
    """``serving.json``: which version shall answer (``serving.folder.ServingState``)."""

    generation: int
    current: ServedVersion
    canary: ServedVersion | None
    previous: list[ServedVersion]


class ReplicaFacts(TypedDict):
    """What a replica says of itself; ``started``: Unix seconds at the end of each part of its start."""

    version: int
    checksum: str
    probe_error: float
    pid: int
    spare_engine: bool
    started: dict[str, float]


class ReplicaRow(TypedDict):
    """A replica in the status: its facts, once it has told them, and the version that it shall serve."""

    target: int
    version: NotRequired[int]
    checksum: NotRequired[str]
    probe_error: NotRequired[float]
    pid: NotRequired[int]
    spare_engine: NotRequired[bool]
    started: NotRequired[dict[str, float]]


class CoordinatorFacts(TypedDict):
    """The coordinator's process, and when it began (Unix seconds)."""

    pid: int
    started: float


class EndpointStatus(TypedDict):
    """``serving.status.json``; ``time`` is when it was written, ``url`` None under Serve's own config."""

    time: float
    coordinator: CoordinatorFacts
    url: str | None
    wanted: WantedVersions
    replicas: dict[str, ReplicaRow]
