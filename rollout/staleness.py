"""Which weights a round is sampled with: a function of the config, never of timing.

Definitions. Version v is the weights after training round v; 0 is the start. The pairs of round r are trained on by
the learner at version r - 1. The staleness of round r is r - 1 less the version that it was sampled with. Weights are
published to the rollouts after the rounds that ``sync_every`` divides.
"""

from __future__ import annotations

from collections.abc import Mapping

from configs.schema import Config, ScheduleConfig
from rollout.state import RoundState, reached


def staleness(sample_version: int, learner_version: int) -> int:
    """Rounds that a sample's weights are older than the learner's."""
    return learner_version - sample_version


def sample_version(schedule: ScheduleConfig, round_number: int) -> int:
    """The weight version that round ``round_number`` (from 1) is sampled with.

    The newest published one; where ``max_staleness`` leaves a round to spare, the newest one before the round that
    trains meanwhile, so that sampling and training overlap. That is decided here and not by who finishes first: the
    same config gives the same samples. A larger ``max_staleness`` is a bound, not a goal.
    """
    lag = 1 if schedule.max_staleness >= schedule.sync_every else 0
    newest = max(round_number - 1 - lag, 0)
    return newest - newest % schedule.sync_every


def sampler_has_reference(config: Config, round_number: int) -> bool:
    """Whether a round is sampled with the weights of its loss's reference, and their log-probabilities are wanted."""
    learner = config.learner
    return (
        learner.reference_logprobs != "learner"
        and not config.rollout.stop
        and learner.reference == "previous_round"
        and sample_version(config.schedule, round_number) == round_number - 1
    )


def may_start_generation(schedule: ScheduleConfig, round_number: int, published: int) -> bool:
    """Whether round ``round_number`` can be sampled once version ``published`` has been published to the rollouts."""
    return sample_version(schedule, round_number) <= published


def publishes(schedule: ScheduleConfig, round_number: int) -> bool:
    """Whether the weights are published to the rollouts after training round ``round_number``."""
    return round_number % schedule.sync_every == 0


def may_publish(schedule: ScheduleConfig, version: int, states: Mapping[int, RoundState]) -> bool:
    """Whether rollout and reward actors may go to ``version``: no round still needs older weights from them."""
    return all(
        reached(states.get(round_number, "planned"), "scored")
        for round_number in range(1, schedule.rounds + 1)
        if sample_version(schedule, round_number) < version
    )


def published_version(schedule: ScheduleConfig, states: Mapping[int, RoundState]) -> int:
    """The newest version that was published: of the last finished round that publishes."""
    version = 0
    while states.get(version + 1) == "done":
        version += 1
    return version - version % schedule.sync_every


def rollout_version(schedule: ScheduleConfig, states: Mapping[int, RoundState]) -> int:
    """The version that the rollout and reward actors must hold now; after a restart, load this one.

    It is the newest published one, except where a finished run continues with more rounds: the first new one may need
    the version before.
    """
    waiting = (
        sample_version(schedule, round_number)
        for round_number in range(1, schedule.rounds + 1)
        if not reached(states.get(round_number, "planned"), "scored")
    )
    published = published_version(schedule, states)
    return min(published, next(waiting, published))


def learner_version(states: Mapping[int, RoundState]) -> int:
    """Rounds trained, without a gap."""
    version = 0
    while reached(states.get(version + 1, "planned"), "trained"):
        version += 1
    return version


def reward_versions(config: Config, round_number: int) -> tuple[int, int | None]:
    """Versions of the implicit reward's two sides in a round.

    Returns:
        (policy side, reference side); None is ``model.reference``. "previous_round" is the policy that the rollouts
        held before the present one: with ``sync_every`` above 1 that is ``sync_every`` rounds back, since a
        log-ratio of a policy against itself is 0.
    """
    sampled = sample_version(config.schedule, round_number)
    policy = sampled if config.reward.follows_policy else 0
    if not config.reward.moving_reference or sampled == 0:
        return policy, None
    return policy, sampled - config.schedule.sync_every
