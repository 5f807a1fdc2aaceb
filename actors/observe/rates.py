"""How fast a stage goes: what is done, candidates and tokens a second, and the time that is left. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST = 3  # steps before the time that is left is told


@dataclass
class Rates:
    """Counts since a stage began.

    Attributes:
        began: Seconds of a monotonic clock.
        steps: Done, also before: a resumed stage begins with those of the journal.
        before: Of them those that the journal held already.
        total: Of the stage; None where it is not known yet.
        candidates: Sampled since ``began``.
        tokens: Of them.
    """

    began: float
    steps: int = 0
    before: int = 0
    total: int | None = None
    candidates: int = 0
    tokens: int = 0

    def text(self, now: float) -> str:
        """E.g. ``12 of 96 chunks, 35 candidates/s, 1,204 tokens/s, about 3 min left``; at time ``now``."""
        passed = max(now - self.began, 1e-9)
        parts = [f"{self.steps} of {self.total} chunks" if self.total is not None else f"{self.steps} chunks"]
        if self.candidates:
            parts.append(f"{self.candidates / passed:,.3g} candidates/s, {self.tokens / passed:,.0f} tokens/s")
        left = self.left(now)
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        return ", ".join(parts)

    def left(self, now: float) -> float | None:
        """Seconds to the end at the pace so far; None before there is one."""
        done = self.steps - self.before
        if self.total is None or done < _FIRST:
            return None
        return (self.total - self.steps) * max(now - self.began, 1e-9) / done


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
