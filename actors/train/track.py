"""Where the pairs of a round come from: the part of a run that its driver is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from actors.engine.sync_report import SyncReport
from actors.observe.metrics import StageClock
from actors.observe.run_metrics import RunMetrics
from actors.observe.screen import Screen
from actors.train.team import Team
from configs.json_types import JsonMapping, JsonObject
from configs.schema import Config
from rollout.prompts import PromptSet
from rollout.state import Action


@dataclass
class RunParts:
    """What the driver and its track share.

    Attributes:
        config: The run.
        team: The remote parts, started.
        screen: Where progress is shown.
        exported: What Ray exports for dashboards; told of everything.
        clocks: Where the time of each round goes.
    """

    config: Config
    team: Team
    screen: Screen
    exported: RunMetrics
    clocks: defaultdict[int, StageClock] = field(default_factory=lambda: defaultdict(StageClock))

    def done(self, action: Action, data: JsonMapping | None = None) -> None:
        """Write to the journal that an action is done; ``data`` is kept with its round."""
        self.team.store.set_round_state(action.round, action.then, data)


class Track(ABC):
    """Brings rounds from ``planned`` to ``paired``. What it decides follows from journal and config, not from timing.

    Args:
        parts: Shared with the driver.
        heldout: Prompts that the driver evaluates; None without any.

    Attributes:
        heldout: See above.
        samples: Whether rollout and reward actors work for it, and thus take each round's weights.
    """

    samples: bool

    def __init__(self, parts: RunParts, heldout: PromptSet | None) -> None:
        self._parts, self._config = parts, parts.config
        self.heldout = heldout

    @abstractmethod
    def begin(self) -> None:
        """Before the first round.

        Raises:
            UserError: The journal has rounds that do not fit what the track is given now.
        """

    @abstractmethod
    def advance(self, action: Action, tick: Callable[[], bool]) -> None:
        """Do an action and write the new state.

        Args:
            action: ``generate`` or ``pair``.
            tick: To be called several times a second; true where the run is to stop.

        Raises:
            StopRequested: It was; everything finished is in the journal.
        """

    @abstractmethod
    def row(self, round_number: int, data: JsonMapping, reports: list[SyncReport]) -> JsonObject:
        """A trained round's row of ``metrics.jsonl``.

        Args:
            round_number: Which.
            data: What the journal keeps of it.
            reports: Of the actors that took its weights.
        """

    @abstractmethod
    def show(self, row: JsonObject) -> None:
        """Show a round's row on the screen."""
