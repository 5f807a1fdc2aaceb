"""What an endpoint that follows a run says of a version that it is offered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offered:
    """The outcome of offering a version to an endpoint.

    Attributes:
        outcome: promoted, canary or refused.
        line: For the screen.
    """

    outcome: str
    line: str
