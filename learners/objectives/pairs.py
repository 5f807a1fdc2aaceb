"""Objectives over preference pairs: ``P`` pairs in, the loss of each pair out, ``[P]`` float32.

Notation: ``r_w = log pi(y_w|x) - log pi_ref(y_w|x)`` of the chosen answer, ``r_l`` of the rejected one, sums over
tokens in nats; ``h = r_w - r_l``; ``e`` is ``learner.label_smoothing``, ``b`` is ``learner.beta``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from learners.objectives.inputs import ObjectiveSettings, PairLogprobs


def _smoothed(logit: Tensor, smoothing: float) -> Tensor:
    """``-(1 - e) log sigmoid(logit) - e log sigmoid(-logit)``."""
    return -(1 - smoothing) * logsigmoid(logit) - smoothing * logsigmoid(-logit)


def sigmoid(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """DPO, ``-(1 - e) log sigmoid(b h) - e log sigmoid(-b h)``.

    Rafailov et al. 2023 (arXiv 2305.18290), equation 7; with ``e`` above 0 it is the conservative form of Mitchell's
    2023 note on noisy preferences ("cDPO"), equation 3.
    """
    return _smoothed(settings.beta * pairs.ratio_difference, settings.label_smoothing)


def robust(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """Robust DPO, ``[-(1 - e) log sigmoid(b h) + e log sigmoid(-b h)] / (1 - 2 e)``.

    Chowdhury et al. 2024 (arXiv 2403.00409): unbiased where a share ``e`` of the preferences is flipped. It
    can be negative.
    """
    logit, smoothing = settings.beta * pairs.ratio_difference, settings.label_smoothing
    return (-(1 - smoothing) * logsigmoid(logit) + smoothing * logsigmoid(-logit)) / (1 - 2 * smoothing)


def ipo(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """IPO, ``(h - 1 / (2 tau))^2`` with ``tau = b``.

    Azar et al. 2023 (arXiv 2310.12036), equation 17. As in the paper, ``h`` is of summed log-probabilities, not
    of their means over tokens.
    """
    return (pairs.ratio_difference - 1 / (2 * settings.beta)) ** 2


def ipo_mean(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """IPO of means over tokens, ``(r_w / |y_w| - r_l / |y_l| - 1 / (2 tau))^2`` with ``tau = b``.

    Equation 17 of arXiv 2310.12036 with length-normalised log-ratios, which is what TRL calls ``ipo``: the margin then
    means the same for answers of any length.
    """
    difference = pairs.chosen_ratio / pairs.chosen_tokens - pairs.rejected_ratio / pairs.rejected_tokens
    return (difference - 1 / (2 * settings.beta)) ** 2


def hinge(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """Hinge on the normalised likelihood, ``max(0, 1 - b h)``.

    RSO (Liu et al. 2023, arXiv 2309.06657), equation 10, after SLiC-HF (Zhao et al. 2023, arXiv 2305.10425).
    """
    return torch.relu(1 - settings.beta * pairs.ratio_difference)


def sigmoid_norm(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """DPO of means over tokens, ``-log sigmoid(b (r_w / |y_w| - r_l / |y_l|))``, so that length by itself is no margin.

    Equation 7 of arXiv 2305.18290 with length-normalised log-ratios (Tulu 3, arXiv 2411.15124, section 5.1.2), which
    TRL calls by this name; label smoothing as in ``sigmoid``. ``b`` is larger by about an answer's tokens (Tulu: 5).
    """
    difference = pairs.chosen_ratio / pairs.chosen_tokens - pairs.rejected_ratio / pairs.rejected_tokens
    return _smoothed(settings.beta * difference, settings.label_smoothing)


def simpo(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """SimPO, ``-log sigmoid(b / |y_w| log pi(y_w|x) - b / |y_l| log pi(y_l|x) - gamma)``, without a reference.

    Meng et al. 2024 (arXiv 2405.14734), equation 6; ``gamma`` is ``learner.simpo_gamma``, label smoothing as in
    ``sigmoid``. The paper's ``b`` is 2 to 10.
    """
    difference = pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens
    return _smoothed(settings.beta * difference - settings.simpo_gamma, settings.label_smoothing)


def cpo(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """CPO, ``-log sigmoid(b log pi(y_w|x) - b log pi(y_l|x))``, without a reference.

    Xu et al. 2024 (arXiv 2401.08417), equation 3, its preference term; the NLL term is ``learner.nll_weight``.
    Label smoothing as in ``sigmoid``.
    """
    return _smoothed(settings.beta * (pairs.chosen - pairs.rejected), settings.label_smoothing)


def kto(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """KTO, the mean of ``d (1 - sigmoid(b (r_w - z0)))`` and ``u (1 - sigmoid(b (z0 - r_l)))``.

    Ethayarajh et al. 2024 (arXiv 2402.01306), equation 7, with the chosen answer as desirable and the rejected one as
    undesirable, ``d`` and ``u`` their weights. ``z0 = max(0, mean log pi(y'|x) - log pi_ref(y'|x))`` over answers of
    other prompts of the step, no gradient through it (``learners/batching.py`` says which).
    """
    baseline = pairs.divergence
    desirable = 1 - torch.sigmoid(settings.beta * (pairs.chosen_ratio - baseline))
    undesirable = 1 - torch.sigmoid(settings.beta * (baseline - pairs.rejected_ratio))
    return (settings.kto_desirable_weight * desirable + settings.kto_undesirable_weight * undesirable) / 2


def dpop(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """DPO-Positive, ``-log sigmoid(b (h - lambda max(0, -r_w)))``.

    Pal et al. 2024 ("Smaug", arXiv 2402.13228), equation 3: the chosen answer may not become less likely than under the
    reference. ``lambda`` is ``learner.dpop_lambda``.
    """
    sunk = torch.relu(-pairs.chosen_ratio)
    return -logsigmoid(settings.beta * (pairs.ratio_difference - settings.dpop_lambda * sunk))


def apo_zero(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """APO-zero, ``1 - sigmoid(b r_w) + sigmoid(b r_l)``: chosen up, rejected down.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 7: for chosen answers better than the policy's own.
    """
    return 1 - torch.sigmoid(settings.beta * pairs.chosen_ratio) + torch.sigmoid(settings.beta * pairs.rejected_ratio)


def apo_down(pairs: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
    """APO-down, ``sigmoid(b r_w) + 1 - sigmoid(b h)``: both down, the rejected answer further.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 8: for chosen answers worse than the policy's own.
    """
    return torch.sigmoid(settings.beta * pairs.chosen_ratio) + 1 - torch.sigmoid(settings.beta * pairs.ratio_difference)


def mean_nll(chosen_logprob: Tensor, chosen_tokens: Tensor) -> Tensor:
    """``-log pi(y_w|x) / |y_w|``: per-token mean NLL of the chosen answer, ``[P]``.

    The term that iterative DPO adds so that the chosen answer's likelihood does not sink (Pang et al. 2024,
    arXiv 2404.19733, equation 1); here without their weight, which is ``learner.nll_weight``.
    """
    return -chosen_logprob / chosen_tokens


def reference_rewards(pairs: PairLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """``b log(pi / pi_ref)`` of chosen and rejected, detached (DPO, arXiv 2305.18290, equation 5)."""
    return (beta * pairs.chosen_ratio).detach(), (beta * pairs.rejected_ratio).detach()


def likelihood_rewards(pairs: PairLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """``b log pi`` of chosen and rejected, detached: what CPO compares (arXiv 2401.08417)."""
    return (beta * pairs.chosen).detach(), (beta * pairs.rejected).detach()


def mean_likelihood_rewards(pairs: PairLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """``b log pi / |y|`` of chosen and rejected, detached (SimPO, arXiv 2405.14734, equation 4)."""
    return (beta * pairs.chosen / pairs.chosen_tokens).detach(), (
        beta * pairs.rejected / pairs.rejected_tokens
    ).detach()
