"""Seeds by request for vLLM's sampler on CPUs: a request's noise does not depend on what shares its step.

vLLM's own seeds by request fail there as soon as a prompt is prefilled in two parts ("CPU Generator does not use
offset", vLLM 0.32), as it takes back a drawn number. Here nothing is drawn: the noise of a token is a function of the
request's seed and of the token's place, so that a step can be done twice, or in parts, or after a preemption.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Cut = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]

SEED = "isogloss_seed"  # in SamplingParams.extra_args

# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def token_seeds(seeds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A seed for each row's next token.

    Args:
        seeds: Of the requests (rows); uint64.
        places: How many tokens each has been given already (rows).

    Returns:
        Non-negative (rows), int64.
    """
    mixed = seeds + (places.astype(np.uint64) + np.uint64(1)) * _STEP  # wraps around
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


class RequestSeeds:
    """Takes the place of the last step of vLLM's CPU sampler: top-k, top-p, and one draw a row.

    Args:
        runner: vLLM's model runner; read at each step.
        cut: vLLM's top-k and top-p, over logits.
    """

    def __init__(self, runner: Any, cut: Cut) -> None:
        self._runner = runner
        self._cut = cut

    def __call__(
        self, logits: Tensor, _generators: dict[int, Any], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, None]:
        """Sampled token ids (rows), for logits (rows, vocabulary) after temperature, which may be changed."""
        rows, batch, known = logits.shape[0], self._runner.input_batch, self._runner.requests
        seeds = np.fromiter(
            ((known[name].sampling_params.extra_args or {}).get(SEED, 0) for name in batch.req_ids[:rows]),
            np.uint64,
            rows,
        )
        places = batch.num_tokens_no_spec[:rows] - batch.num_prompt_tokens[:rows]
        drawn: Tensor = torch.ops._C.fused_gumbel_argmax(
            self._cut(logits, k, p).float(), torch.from_numpy(token_seeds(seeds, places))
        )
        return drawn, None


def seed_by_request(runner: Any, cut: Cut) -> None:
    """Make a runner's sampler draw by each request's own seed (``SamplingParams.extra_args[SEED]``)."""
    runner.sampler.topk_topp_sampler.forward = RequestSeeds(runner, cut)
