"""Preference objectives, each a function of summed log-probabilities; and the NLL term beside them.

An objective takes the four summed log-probabilities of ``P`` pairs (``[P]`` float32, nats) and gives the loss
of each pair, ``[P]``. A new one is a function and a line in ``OBJECTIVES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Summed log-probabilities of the answers of ``P`` pairs, ``[P]`` each, nats, end of turn included."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """``log pi(y_w|x) - log pi_ref(y_w|x)``."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """``log pi(y_l|x) - log pi_ref(y_l|x)``."""
        return self.rejected - self.reference_rejected

    @property
    def ratio_difference(self) -> Tensor:
        """``h``, the argument of both objectives: chosen ratio less rejected ratio."""
        return self.chosen_ratio - self.rejected_ratio


@dataclass(frozen=True, slots=True)
class ObjectiveSettings:
    """Numbers that an objective may use."""

    beta: float
    label_smoothing: float = 0.0


Objective = Callable[[PairLogprobs, ObjectiveSettings], Tensor]


def sigmoid(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """DPO, ``-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)``.

    Rafailov et al. 2023 (arXiv 2305.18290), equation 7; with ``e = label_smoothing`` above 0 it is the
    conservative form of Mitchell's 2023 note on noisy preferences ("cDPO"), equation 3.
    """
    logit = settings.beta * pairs.ratio_difference
    smoothing = settings.label_smoothing
    return -(1 - smoothing) * logsigmoid(logit) - smoothing * logsigmoid(-logit)


def ipo(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """IPO, ``(h - 1 / (2 tau))^2`` with ``tau = beta``.

    Azar et al. 2023 (arXiv 2310.12036), equation 17. As in the paper, ``h`` is of summed log-probabilities,
    not of their means over tokens.
    """
    return (pairs.ratio_difference - 1 / (2 * settings.beta)) ** 2


OBJECTIVES: dict[str, Objective] = {"sigmoid": sigmoid, "ipo": ipo}


def mean_nll(chosen_logprob: Tensor, chosen_tokens: Tensor) -> Tensor:
    """``-log pi(y_w|x) / |y_w|``: per-token mean NLL of the chosen answer, ``[P]``.

    The term that iterative DPO adds so that the chosen answer's likelihood does not sink (Pang et al. 2024,
    arXiv 2404.19733, equation 1); here without their weight, which is ``learner.nll_weight``.
    """
    return -chosen_logprob / chosen_tokens


def implicit_rewards(pairs: PairLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """``beta log(pi / pi_ref)`` of chosen and rejected, detached (DPO, arXiv 2305.18290, equation 5)."""
    with torch.no_grad():
        return beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
