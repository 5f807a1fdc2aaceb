"""One rank of the learner: a DeepSpeed engine that trains rounds of preference pairs, or of groups for RLOO.

The loss of a step is the mean over the step's pairs (RLOO: answers), all ranks together. How they are split over ranks
and packed into micro-batches changes the time a step takes and nothing else (beyond float rounding).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from configs.schema import LearnerConfig, ModelConfig
from learners import distributed, lora, loss
from learners.batching import EncodedExample, encode_examples, mismatched, steps_of_epoch
from learners.checkpoint_layout import STATE_FILE, read_state
from learners.encode import ChatEncoder
from learners.engine import Engine, load_model, zero_stage
from learners.errors import NumericError
from learners.logprobs import LogprobModel
from learners.metrics import ExampleStats, RoundMetrics, StepMetrics, by_language, summarise
from learners.microbatches import References, TokenLogprobs, is_spread, micro_batches, score, score_tokens
from learners.objectives.inputs import ObjectiveSettings
from learners.objectives.registry import GROUPS, needs_reference, pair_objective, takes
from learners.objectives.switches import StepTotals
from learners.packing import PackedBatch
from learners.sampler_reference import Referenced, compare, probe, sampled_logprobs, sums
from learners.weights import WeightsManifest, gather_adapter, gather_weights, make_manifest
from rollout.records import Example, SampleGroup

logger = logging.getLogger(__name__)


class LearnerSession:
    """The trainable policy of one rank. Needs an initialised ``torch.distributed`` process group.

    Args:
        learner: The objective and how it is optimised.
        model: ``policy`` is the starting policy (the ``initial`` reference), ``dtype``, ``max_length``.
        seed: Run seed; orders examples.
        start: Folder whose weights training begins with: ``model.policy``, or a checkpoint. With ``learner.lora`` the
            weights are always those of ``model.policy``, and a checkpoint gives the adapter.
    """

    def __init__(self, learner: LearnerConfig, model: ModelConfig, seed: int, start: Path) -> None:
        self.learner = learner
        self.model = model
        self.seed = seed
        self.start = Path(start)
        self.rank, self.world_size = distributed.world()
        self.device = distributed.device()
        torch.manual_seed(seed)
        self.encoder = ChatEncoder.of(model, self.start)
        self.policy: PreTrainedModel = load_model(
            model.policy if learner.lora else self.start, model.dtype, self.device
        )
        self.adapters: dict[str, lora.AdaptedLayer] = {}
        if learner.lora is not None:
            self.adapters = lora.inject(self.policy, learner.lora, seed)
            if self.start.resolve() != model.policy.resolve():
                lora.load_adapter(self.adapters, self.start)
        self.zero_stage = zero_stage(learner, model.dtype, self.world_size, self._written())
        self.engine = Engine(LogprobModel(self.policy, learner.logprob_chunk), learner, model.dtype, self.zero_stage)
        self._frozen: LogprobModel | None = None
        self._settings = ObjectiveSettings.of(learner)
        self._uses_divergence = not learner.on_groups and pair_objective(learner.objective).needs_divergence
        self._encoded: dict[str, EncodedExample] = {}  # by the reference pass, until they are trained on
        self.step = 0  # optimiser steps since the start of the run
        self.round = 0  # last round that was trained

    def reference_logprobs(self, round_number: int, examples: Sequence[Example]) -> References:
        """Summed log-probabilities of each example's answers under the loss reference, by id, on every rank.

        ``previous_round`` is the current weights, so call it before the round is trained; ``initial`` is a
        frozen copy of ``model.policy``, or the policy with its adapters set aside. Given all examples of the
        round, the forward passes are exactly those of the round's first epoch, so that its first step starts at
        the reference to the last bit. Empty for an objective without a reference (``simpo``, ``cpo``).
        """
        if not needs_reference(self.learner):
            return {}
        return self._score_reference(self._steps(self._encode(examples), round_number, 0))

    def referenced(self, round_number: int, examples: Sequence[Example]) -> Referenced:
        """The references as ``learner.reference_logprobs`` wants them: the sampler's where it has them, or all as
        :meth:`reference_logprobs`."""
        origin, encoded = self.learner.reference_logprobs, self._encode(examples)
        sampled = {one.id: found for one in encoded if (found := sampled_logprobs(one)) is not None}
        if origin == "learner" or not sampled or self.learner.reference != "previous_round":
            return Referenced(self.reference_logprobs(round_number, examples))
        steps = self._steps(encoded, round_number, 0)
        probed = probe(steps, sampled)
        _, tokens = score_tokens(
            self.engine,
            [probed],
            self.learner.tokens_per_micro_batch,
            self.device,
            frozenset(one.id for one in probed),
        )
        mismatch = compare(probed, sampled, tokens, self.learner.beta, origin)
        if not mismatch.used:
            return Referenced(self.reference_logprobs(round_number, examples), mismatch)
        rest = [one for one in encoded if one.id not in sampled]
        values = self._score_reference(self._steps(rest, round_number, 0))
        return Referenced(values | {name: sums(kept) for name, kept in sampled.items()}, mismatch)

    def train_round(self, round_number: int, examples: Sequence[Example]) -> RoundMetrics:
        """Train on a round's pairs or groups; every rank passes all of them.

        Those without reference log-probabilities get them first. Anchors are pairs like any other.

        Raises:
            UserError: The examples are not of the kind that the objective takes, or cannot be used.
            NumericError: A loss or gradient is not finite. The weights are those before the step; the session
                holds half a step's gradients and must not be trained further.
        """
        started = time.perf_counter()
        encoded = self._encode(examples)
        self._encoded = {}
        references = self._references(round_number, encoded)
        old = self._old(round_number, encoded, references)
        old_tokens, reference_tokens = self._by_token(round_number, encoded)
        epochs = [self._steps(encoded, round_number, epoch) for epoch in range(self.learner.epochs)]
        # Before the first step: the reference may be the weights that it changes.
        apart = [[self._mismatched_reference(step) for step in steps] for steps in epochs]
        metrics = []
        for epoch, steps in enumerate(epochs):
            for step, other in zip(steps, apart[epoch], strict=True):
                inputs = loss.StepInputs(
                    references, old, self._divergence(step, other), old_tokens, reference_tokens, _totals(step)
                )
                metrics.append(self._train_step(round_number, epoch, step, inputs))
        self.round = round_number
        return RoundMetrics(round_number, len(encoded), time.perf_counter() - started, metrics)

    def full_weights(self) -> dict[str, Tensor]:
        """Full weights by name on rank 0, adapters merged, empty elsewhere; called by every rank."""
        return gather_weights(self.policy, self._partitioned, self.adapters)

    def adapter_weights(self) -> dict[str, Tensor]:
        """Tensors of the adapters, as peft names them, on rank 0; empty elsewhere. Called by every rank."""
        return gather_adapter(self.adapters, self._partitioned)

    @property
    def _partitioned(self) -> bool:
        return self.zero_stage == 3

    def _written(self) -> int | None:
        """Stage of the optimiser's state in the checkpoint that the session starts from, if as many ranks wrote it."""
        if self.start.resolve() == self.model.policy.resolve() or not (self.start / STATE_FILE).is_file():
            return None
        state = read_state(self.start)
        return state.zero_stage if state.world_size == self.world_size else None

    def manifest(self, version: int, weights: dict[str, Tensor]) -> WeightsManifest:
        """Manifest of what is published, valid on rank 0; called by every rank."""
        vocabulary = min(len(self.encoder.tokenizer), self.policy.config.vocab_size)
        return make_manifest(version, weights, self.engine, vocabulary, self.model.dtype)  # type: ignore[arg-type]

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def _encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        objective, longest = self.learner.objective, self.model.max_length
        encoded = encode_examples(self.encoder, examples, longest, objective, self._encoded)
        self._encoded = {one.id: one for one in encoded}
        return encoded

    def _steps(self, examples: Sequence[EncodedExample], round_number: int, epoch: int) -> list[list[EncodedExample]]:
        return steps_of_epoch(examples, self.learner.pairs_per_step, self.seed, round_number, epoch)

    def _score(self, scorer: Callable[[PackedBatch], Tensor], steps: Sequence[Sequence[EncodedExample]]) -> References:
        return score(scorer, steps, self.learner.tokens_per_micro_batch, self.device)

    def _score_reference(self, steps: Sequence[Sequence[EncodedExample]]) -> References:
        """Under the loss reference; for ``previous_round`` only before the first step."""
        if self.learner.reference == "previous_round":
            return self._score(self.engine, steps)
        with lora.set_aside(self.policy) if self.adapters else nullcontext():
            return self._score(self.engine if self.adapters else self._frozen_start(), steps)

    def _frozen_start(self) -> LogprobModel:
        if self._frozen is None:
            policy = load_model(self.model.policy, self.model.dtype, self.device)
            self._frozen = LogprobModel(policy.requires_grad_(False), self.learner.logprob_chunk)
        return self._frozen

    def _references(self, round_number: int, encoded: Sequence[EncodedExample]) -> References:
        """Those that the examples bring along, and the others computed."""
        if not needs_reference(self.learner):
            return {}
        stored = {one.id: one.example.references for one in encoded}
        missing = [one for one in encoded if stored[one.id] is None]
        computed = self._score_reference(self._steps(missing, round_number, 0))
        return computed | {name: values for name, values in stored.items() if values is not None}

    def _old(self, round_number: int, encoded: Sequence[EncodedExample], references: References) -> References:
        """RLOO's ``pi_old``: the policy that the round begins with."""
        group = GROUPS.get(self.learner.objective)
        if group is None or group.by_token or self.learner.reference == "previous_round":
            return references
        return self._score(self.engine, self._steps(encoded, round_number, 0))

    def _by_token(self, round_number: int, encoded: Sequence[EncodedExample]) -> tuple[TokenLogprobs, TokenLogprobs]:
        """Tokens under the policy that the round begins with and under the loss reference, for ``objective: group``."""
        group = GROUPS.get(self.learner.objective)
        if group is None or not group.by_token:
            return {}, {}
        steps = self._steps(encoded, round_number, 0)
        old = self._tokens(self.engine, steps)
        if self.learner.group.kl == "off" or self.learner.reference == "previous_round":
            return old, {} if self.learner.group.kl == "off" else old
        with lora.set_aside(self.policy) if self.adapters else nullcontext():
            return old, self._tokens(self.engine if self.adapters else self._frozen_start(), steps)

    def _tokens(
        self, scorer: Callable[[PackedBatch], Tensor], steps: Sequence[Sequence[EncodedExample]]
    ) -> TokenLogprobs:
        ids = frozenset(one.id for step in steps for one in step)
        return score_tokens(scorer, steps, self.learner.tokens_per_micro_batch, self.device, ids)[1]

    def _mismatched_reference(self, step: Sequence[EncodedExample]) -> References:
        """The reference's part of KTO's ``z0`` in a step; empty for other objectives and for a step of one pair."""
        if not self._uses_divergence:
            return {}
        others = mismatched(step, self.model.max_length)
        return self._score_reference([others] if others else [])

    def _divergence(self, step: Sequence[EncodedExample], reference: References) -> float:
        """KTO's ``z0``, nats: how much more the policy likes answers of other prompts than the reference does."""
        if not reference:
            return 0.0
        policy = self._score(self.engine, [mismatched(step, self.model.max_length)])
        ratios = [
            ours - theirs
            for name, values in policy.items()
            for ours, theirs in zip(values, reference[name], strict=True)
        ]
        # max() would drop a NaN, which must stop the step.
        mean = math.fsum(ratios) / len(ratios)
        return mean if math.isnan(mean) else max(0.0, mean)

    def _train_step(
        self, round_number: int, epoch: int, examples: Sequence[EncodedExample], inputs: loss.StepInputs
    ) -> StepMetrics:
        started = time.perf_counter()
        budget = self.learner.tokens_per_micro_batch
        micros = micro_batches(examples, budget)
        units = sum(one.units for one in examples)
        spread = [one for one in examples if is_spread(one, budget)]
        current: References | TokenLogprobs = {}
        if spread and self.learner.objective == "group":
            current = self._tokens(self.engine, [spread])
        elif spread:
            current = self._score(self.engine, [spread])
        mine: list[ExampleStats] = []
        for micro in micros:
            values = self.engine(micro.batch.to(self.device))
            if micro.answers is not None:
                total, stats = loss.spread_loss(
                    micro, values, inputs, current, self.learner.objective, settings=self._settings
                )
                mine += stats
                self.engine.backward(total * (self.world_size / units))
            elif micro.examples:
                total, stats = loss.losses(
                    micro, values, inputs, self.learner.objective, self._settings, nll_weight=self.learner.nll_weight
                )
                mine += stats
                # DeepSpeed averages gradients over ranks: undo that, so that the step's loss is the mean of all.
                self.engine.backward(total * (self.world_size / units))
            else:
                self.engine.backward(values.sum() * 0.0)
        used = sum(micro.batch.tokens for micro in micros if micro.examples)
        gathered = distributed.gather_objects((mine, used))
        stats = sorted((one for part, _ in gathered for one in part), key=lambda one: one.id)
        tokens = sum(part for _, part in gathered)
        self._refuse_unless_finite(stats, round_number)
        try:
            norm, rate = self.engine.step()
        except FloatingPointError:
            raise self._numeric_error("gradient", round_number, [one.id for one in stats]) from None
        self.step += 1
        seconds = time.perf_counter() - started
        padded = sum(one.answers for one in stats) * max(one.segment.longest for one in examples)
        figures = summarise(stats, seconds)
        if self._uses_divergence:
            figures["divergence"] = inputs.divergence
        return StepMetrics(
            round=round_number,
            epoch=epoch,
            step=self.step,
            values=figures,
            languages=by_language(stats, seconds),
            grad_norm=norm,
            learning_rate=rate,
            tokens=tokens,
            padding_saved=1 - tokens / padded,
            micro_batches=len(micros),
            seconds=seconds,
        )

    def _refuse_unless_finite(self, stats: Sequence[ExampleStats], round_number: int) -> None:
        bad = [one.id for one in stats if not one.finite]
        if bad:
            raise self._numeric_error("loss", round_number, bad)

    def _numeric_error(self, what: str, round_number: int, ids: Sequence[str]) -> NumericError:
        named = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        kind = takes(self.learner.objective)
        return NumericError(
            f"round {round_number}, optimiser step {self.step + 1}: the {what} is not finite; "
            f"{kind}: {named}. The step was not applied and the last checkpoint stays; lower "
            f"learner.learning_rate, or remove the {kind}"
        )


def _totals(step: Sequence[EncodedExample]) -> StepTotals | None:
    """Of a step's groups; None for pairs. The same on every rank, since each has the whole step."""
    groups = [one.example for one in step if isinstance(one.example, SampleGroup)]
    if not groups:
        return None
    rewards = torch.tensor([reward for group in groups for reward in group.rewards], dtype=torch.float64)
    return StepTotals(len(rewards), sum(one.segment.targets for one in step), float(rewards.std()))
