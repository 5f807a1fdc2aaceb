"""One rank of the learner: a DeepSpeed engine that trains rounds of preference pairs.

The loss of a step is the mean over the step's pairs, all ranks together. How the pairs are split over ranks
and packed into micro-batches changes the time a step takes and nothing else (beyond float rounding).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from configs.schema import LearnerConfig, ModelConfig
from learners import distributed, lora
from learners.encode import ChatEncoder
from learners.engine import Engine, load_model, zero_stage
from learners.errors import NumericError
from learners.logprobs import LogprobModel
from learners.losses import OBJECTIVES, ObjectiveSettings, PairLogprobs, implicit_rewards, mean_nll
from learners.metrics import PairStats, RoundMetrics, StepMetrics, by_language, summarise
from learners.packing import PackedBatch, pack
from learners.schedule import EncodedPair, encode_pairs, split_over_ranks, steps_of_epoch
from learners.weights import WeightsManifest, gather_adapter, gather_weights, make_manifest
from rollout.records import Pair

logger = logging.getLogger(__name__)

References = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A packed batch and the pairs in it; without pairs it only keeps this rank in step with the others."""

    batch: PackedBatch
    pairs: tuple[EncodedPair, ...]

    def sums(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Summed log-probabilities of chosen and rejected, ``[P]`` each, in the order of ``pairs``."""
        found: dict[tuple[int, int], Tensor] = {}
        for span in self.batch.spans:
            found[span.segment, span.completion] = values[span.start : span.stop].sum()
        numbers = range(len(self.pairs))
        return torch.stack([found[n, 0] for n in numbers]), torch.stack([found[n, 1] for n in numbers])


class LearnerSession:
    """The trainable policy of one rank. Needs an initialised ``torch.distributed`` process group.

    Args:
        learner: The objective and how it is optimised.
        model: ``policy`` is the starting policy (the ``initial`` reference), ``dtype``, ``max_length``.
        seed: Run seed; orders pairs.
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
        self.encoder = ChatEncoder(self.start, model.add_bos)
        self.policy: PreTrainedModel = load_model(
            model.policy if learner.lora else self.start, model.dtype, self.device
        )
        self.adapters: dict[str, lora.AdaptedLayer] = {}
        if learner.lora is not None:
            self.adapters = lora.inject(self.policy, learner.lora, seed)
            if self.start.resolve() != model.policy.resolve():
                lora.load_adapter(self.adapters, self.start)
        self.engine = Engine(LogprobModel(self.policy, learner.logprob_chunk), learner, model.dtype)
        self._frozen: LogprobModel | None = None
        self._settings = ObjectiveSettings(learner.beta, learner.label_smoothing)
        self.step = 0  # optimiser steps since the start of the run
        self.round = 0  # last round that was trained

    def reference_logprobs(self, round_number: int, pairs: Sequence[Pair]) -> References:
        """Summed log-probabilities of chosen and rejected under the loss reference, by pair id, on every
        rank.

        ``previous_round`` is the current weights, so call it before the round is trained; ``initial`` is a
        frozen copy of ``model.policy``, or the policy with its adapters set aside. Given all pairs of the round,
        the forward passes are exactly those of the round's first epoch, so that its first step starts at the
        reference to the last bit.
        """
        encoded = encode_pairs(self.encoder, pairs, self.model.max_length)
        if not encoded:
            return {}
        scorer, adapters = self._reference_scorer()
        found: References = {}
        with torch.no_grad(), adapters:
            for step in self._steps(encoded, round_number, 0):
                for micro in self._micro_batches(step):
                    values = scorer(micro.batch.to(self.device))
                    if micro.pairs:
                        chosen, rejected = (sums.tolist() for sums in micro.sums(values))
                        ids = [one.pair.id for one in micro.pairs]
                        found |= dict(zip(ids, zip(chosen, rejected, strict=True), strict=True))
        merged: References = {}
        for part in distributed.gather_objects(found):
            merged |= part
        return merged

    def train_round(self, round_number: int, pairs: Sequence[Pair]) -> RoundMetrics:
        """Train on a round's pairs; every rank passes all of them.

        Pairs without reference log-probabilities get them first. Anchors are pairs like any other.

        Raises:
            NumericError: A loss or gradient is not finite. The weights are those before the step; the session
                holds half a step's gradients and must not be trained further.
        """
        started = time.perf_counter()
        encoded = encode_pairs(self.encoder, pairs, self.model.max_length)
        missing = [
            one.pair for one in encoded if one.pair.reference_chosen is None or one.pair.reference_rejected is None
        ]
        references = self.reference_logprobs(round_number, missing)
        for one in encoded:
            good, bad = one.pair.reference_chosen, one.pair.reference_rejected
            if good is not None and bad is not None:
                references[one.pair.id] = (good, bad)
        steps = []
        for epoch in range(self.learner.epochs):
            for step in self._steps(encoded, round_number, epoch):
                steps.append(self._train_step(round_number, epoch, step, references))
        self.round = round_number
        return RoundMetrics(round_number, len(encoded), time.perf_counter() - started, steps)

    def full_weights(self) -> dict[str, Tensor]:
        """Full weights by name on rank 0, adapters merged, empty elsewhere; called by every rank."""
        return gather_weights(self.policy, self._partitioned, self.adapters)

    def adapter_weights(self) -> dict[str, Tensor]:
        """Tensors of the adapters, as peft names them, on rank 0; empty elsewhere. Called by every rank."""
        return gather_adapter(self.adapters, self._partitioned)

    @property
    def _partitioned(self) -> bool:
        return zero_stage(self.learner, self.model.dtype) == 3

    def manifest(self, version: int, weights: dict[str, Tensor]) -> WeightsManifest:
        """Manifest of what is published, valid on rank 0; called by every rank."""
        vocabulary = min(len(self.encoder.tokenizer), self.policy.config.vocab_size)
        return make_manifest(version, weights, self.engine, vocabulary)  # type: ignore[arg-type]

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def _reference_scorer(self) -> tuple[Engine | LogprobModel, AbstractContextManager[None]]:
        """What computes the loss reference, and within which context."""
        if self.learner.reference == "previous_round":
            return self.engine, nullcontext()
        if self.adapters:
            return self.engine, lora.set_aside(self.policy)
        return self._frozen_start(), nullcontext()

    def _frozen_start(self) -> LogprobModel:
        if self._frozen is None:
            policy = load_model(self.model.policy, self.model.dtype, self.device)
            self._frozen = LogprobModel(policy.requires_grad_(False), self.learner.logprob_chunk)
        return self._frozen

    def _steps(self, pairs: Sequence[EncodedPair], round_number: int, epoch: int) -> list[list[EncodedPair]]:
        return steps_of_epoch(pairs, self.learner.pairs_per_step, self.seed, round_number, epoch)

    def _micro_batches(self, pairs: Sequence[EncodedPair]) -> list[MicroBatch]:
        """This rank's share, as many micro-batches as the rank with the most: the others' are filled up.

        ZeRO gathers and reduces in every pass, so a rank that ran fewer would leave the others waiting.
        """
        budget = self.learner.tokens_per_micro_batch
        mine = split_over_ranks(pairs, self.world_size)[self.rank]
        micros = []
        for batch in pack([one.segment for one in mine], budget):
            members = sorted({span.segment for span in batch.spans})
            micros.append(MicroBatch(batch.renumbered(members), tuple(mine[index] for index in members)))
        longest = max(distributed.gather_objects(len(micros)))
        if len(micros) < longest:
            shortest = min(pairs, key=lambda one: (one.segment.tokens, one.pair.id))
            filler = MicroBatch(pack([shortest.segment], budget)[0], ())
            micros += [filler] * (longest - len(micros))
        return micros

    def _train_step(
        self, round_number: int, epoch: int, pairs: Sequence[EncodedPair], references: References
    ) -> StepMetrics:
        started = time.perf_counter()
        micros = self._micro_batches(pairs)
        mine: list[PairStats] = []
        for micro in micros:
            values = self.engine(micro.batch.to(self.device))
            if micro.pairs:
                losses, stats = self._pair_losses(micro, values, references)
                mine += stats
                # DeepSpeed averages gradients over ranks: undo that, so that the step's loss is the mean of
                # pairs.
                self.engine.backward(losses.sum() * (self.world_size / len(pairs)))
            else:
                self.engine.backward(values.sum() * 0.0)
        used = sum(micro.batch.tokens for micro in micros if micro.pairs)
        gathered = distributed.gather_objects((mine, used))
        stats = sorted((one for part, _ in gathered for one in part), key=lambda one: one.id)
        tokens = sum(part for _, part in gathered)
        self._refuse_unless_finite(stats, round_number)
        try:
            norm, rate = self.engine.step()
        except FloatingPointError:
            raise self._numeric_error("gradient", round_number, [one.id for one in stats]) from None
        self.step += 1
        padded = 2 * len(pairs) * max(one.segment.longest for one in pairs)
        return StepMetrics(
            round=round_number,
            epoch=epoch,
            step=self.step,
            values=summarise(stats),
            languages=by_language(stats),
            grad_norm=norm,
            learning_rate=rate,
            tokens=tokens,
            padding_saved=1 - tokens / padded,
            micro_batches=len(micros),
            seconds=time.perf_counter() - started,
        )

    def _pair_losses(self, micro: MicroBatch, values: Tensor, references: References) -> tuple[Tensor, list[PairStats]]:
        chosen, rejected = micro.sums(values)
        known = torch.tensor([references[one.pair.id] for one in micro.pairs], device=values.device)
        logprobs = PairLogprobs(chosen, rejected, known[:, 0], known[:, 1])
        lengths = torch.tensor([[len(ids) for ids in one.segment.completions] for one in micro.pairs])
        preference = OBJECTIVES[self.learner.objective](logprobs, self._settings)
        nll = mean_nll(chosen, lengths[:, 0].to(values.device))
        losses = preference + self.learner.nll_weight * nll
        rewards = implicit_rewards(logprobs, self.learner.beta)
        columns = torch.stack([losses, preference, nll, chosen, rejected, *rewards]).detach().T.tolist()
        stats = [
            PairStats(one.pair.id, one.pair.language, *row, *size)
            for one, row, size in zip(micro.pairs, columns, lengths.tolist(), strict=True)
        ]
        return losses, stats

    def _refuse_unless_finite(self, stats: Sequence[PairStats], round_number: int) -> None:
        bad = [one.id for one in stats if not one.finite]
        if bad:
            raise self._numeric_error("loss", round_number, bad)

    def _numeric_error(self, what: str, round_number: int, ids: Sequence[str]) -> NumericError:
        named = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        return NumericError(
            f"round {round_number}, optimiser step {self.step + 1}: the {what} is not finite; "
            f"pairs: {named}. The step was not applied and the last checkpoint stays; lower "
            "learner.learning_rate, or remove the pairs"
        )
