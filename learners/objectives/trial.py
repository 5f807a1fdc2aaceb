"""A user's own objective called before anything starts; torch is imported where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.errors import UserError
from configs.learner import OBJECTIVES, LearnerConfig

if TYPE_CHECKING:
    from torch import Tensor


def try_objective(learner: LearnerConfig) -> None:
    """Call an objective of the user's own with two pairs, before anything starts.

    Raises:
        UserError: It cannot be imported or called, or gives no finite loss with a gradient.
    """
    if learner.objective in OBJECTIVES:
        return
    import torch  # late, as a run's check of all other inputs needs none of it

    from learners.objectives.inputs import ObjectiveSettings, PairLogprobs
    from learners.objectives.registry import FIELD, pair_objective

    objective = pair_objective(learner.objective)
    good, bad = (torch.tensor(values, requires_grad=True) for values in ([-10.0, -8.0], [-12.0, -7.0]))
    reference: tuple[Tensor | None, Tensor | None] = (None, None)
    if objective.needs_reference:
        reference = torch.tensor([-11.0, -9.0]), torch.tensor([-9.0, -9.0])
    pair = PairLogprobs(good, bad, reference[0], reference[1], torch.tensor([5, 4]), torch.tensor([3, 4]))
    losses = objective.loss(pair, ObjectiveSettings.of(learner))
    if not bool(torch.isfinite(losses).all()):
        raise UserError(f"{FIELD}: {learner.objective}: gives {losses.tolist()} for two pairs; a loss must be finite")
    if not losses.requires_grad:
        raise UserError(
            f"{FIELD}: {learner.objective}: its loss has no gradient; compute it from pairs.chosen and pairs.rejected "
            "without detach, item or numpy"
        )
    losses.sum().backward()
    if not all(one.grad is None or bool(torch.isfinite(one.grad).all()) for one in (good, bad)):
        raise UserError(f"{FIELD}: {learner.objective}: its gradient for two pairs is not finite")
