"""The models of a reward that is made of log-probabilities: implicit (a log-ratio of two) and likelihood (one)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from actors.engine.verify import check_manifest, check_probe, checked_tensors
from actors.runtime.health import SyncError
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.measures import ImplicitMeasure, LogprobMeasure
from configs.schema import Config
from learners.broadcast import receive
from learners.checkpoint_layout import publishes_adapter
from learners.encode import ChatEncoder, answer_tokens, same_vocabulary
from learners.engine import load_model
from learners.errors import BroadcastFailed
from learners.logprobs import LogprobModel, segment_logprobs
from learners.lora import adapter_shapes, merge_into
from learners.manifest import WeightsManifest
from learners.packing import Segment
from learners.rendezvous import Rendezvous
from rollout.records import Candidate, Score, Turns
from rollout.rewards import ScoreRequest, implicit_score, likelihood_score
from rollout.sources import sampled_ids
from rollout.token_ids import TokenIds


class ScoringModels:
    """The policy side, and the reference side of the implicit reward.

    Args:
        config: The run.
        policy: Hugging Face folder of the reward policy.
        reference: Hugging Face folder of the reward reference; None for a reward that has one model.

    Raises:
        UserError: A folder is unusable, or the two have different vocabularies.
    """

    def __init__(self, config: Config, policy: Path, reference: Path | None) -> None:
        self._config = config
        self._device = torch.device("cuda" if config.reward.gpus_per_actor > 0 else "cpu")
        self._encoder = ChatEncoder.of(config.model, policy)
        # The likelihood may be that of another model, to whose tokenizer the sampled tokens mean nothing.
        self._own_tokens = same_vocabulary(Path(policy), config.model.policy)
        self._policy = self._load(policy)
        self._reference: PreTrainedModel | None = None
        # Scorers share the models' weights, so that updates in place are seen.
        self._scorer = self._scorer_of(self._policy)
        self._reference_scorer: LogprobModel | None = None
        if reference is not None:
            self._reference = self._load(reference)
            self._reference_scorer = self._scorer_of(self._reference)
            sizes = [m.config.get_text_config().vocab_size for m in (self._policy, self._reference)]
            if sizes[0] != sizes[1]:
                raise UserError(
                    f"model.reference: {reference} has a vocabulary of {sizes[1]}, the policy {policy} one of "
                    f"{sizes[0]}; name the model that the policy was aligned from"
                )
        self._shifted_for: int | None = None

    def _load(self, folder: Path) -> PreTrainedModel:
        return load_model(Path(folder), self._config.model.dtype, self._device).requires_grad_(False)

    def _scorer_of(self, model: PreTrainedModel) -> LogprobModel:
        return LogprobModel(model, self._config.learner.logprob_chunk)

    def score(self, requests: Sequence[ScoreRequest], measure: LogprobMeasure) -> tuple[list[Score], int]:
        """Rewards (nats), in the order of ``requests``, and the tokens that were scored by the policy side.

        Texts under one prompt share a single copy of it. ``parts`` also holds the length of each text, in
        characters and in tokens without the end of turn.
        """
        completions = [self._tokens(request.text, request.token_ids) for request in requests]
        logprobs, tokens = self._sums(self._scorer, [request.prompt for request in requests], completions)
        if isinstance(measure, ImplicitMeasure):
            assert self._reference_scorer is not None, "the config is validated"
            other, _ = self._sums(self._reference_scorer, [request.prompt for request in requests], completions)
            scores = [implicit_score(r.key, *sums) for r, *sums in zip(requests, logprobs, other, strict=True)]
        else:
            baselines = [request.baseline for request in requests if request.baseline is not None]
            other, more = self._sums(self._scorer, baselines, completions)
            tokens += more
            scores = [
                likelihood_score(request.key, logprob, baseline, len(ids), measure.per)
                for request, logprob, baseline, ids in zip(
                    requests, logprobs, other if baselines else [None] * len(requests), completions, strict=True
                )
            ]
        lengths = [
            {
                "length_chars": float(len(request.text)),
                "length_tokens": float(len(ids) - (request.ended or not self._own_tokens)),
            }
            for request, ids in zip(requests, completions, strict=True)
        ]
        return [
            replace(score, parts={**score.parts, **length}) for score, length in zip(scores, lengths, strict=True)
        ], tokens

    def fluency(self, prompts: Sequence[Turns], answers: Sequence[Candidate]) -> tuple[list[float], int]:
        """Mean log-probability of a token (nats; end of turn included) of answers under prompts; the tokens it took."""
        completions = [self._tokens(answer.text, sampled_ids(answer)) for answer in answers]
        sums, tokens = self._sums(self._scorer, prompts, completions)
        return [value / len(ids) for value, ids in zip(sums, completions, strict=True)], tokens

    def _tokens(self, text: str, ids: TokenIds | None) -> tuple[int, ...]:
        return answer_tokens(self._encoder, text, ids if self._own_tokens else None)

    def _sums(
        self, scorer: LogprobModel, prompts: Sequence[Turns], completions: Sequence[tuple[int, ...]]
    ) -> tuple[list[float], int]:
        """Summed log-probabilities (nats) of completions, each under its prompt, and the tokens that it took."""
        groups: dict[Turns, list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(index)
        segments = [
            Segment(tuple(self._encoder.prompt_ids(prompt)), tuple(completions[i] for i in members))
            for prompt, members in groups.items()
        ]
        rows = segment_logprobs(scorer, segments, self._config.reward.tokens_per_micro_batch, self._device)
        sums = {
            index: float(rows[row][column].sum())
            for row, members in enumerate(groups.values())
            for column, index in enumerate(members)
        }
        return [sums[index] for index in range(len(prompts))], sum(segment.tokens for segment in segments)

    @torch.no_grad()
    def update(self, manifest: WeightsManifest, arrays: JsonObject, known: bool) -> float:
        """Put published weights into the policy, and its former weights into a ``previous_round`` reference.

        Args:
            manifest: What was published.
            arrays: The weights.
            known: Whether the policy's present weights are those of a verified version.

        Returns:
            The probe's difference, nats a token.

        Raises:
            SyncError: Refused, or not proven.
        """
        weights = self._checked(manifest, arrays, self._shapes())
        self._shift_reference(manifest.version, known)
        self._put(weights)
        return self._probe(manifest)

    @torch.no_grad()
    def receive(self, manifest: WeightsManifest, rendezvous: Rendezvous, known: bool) -> float:
        """As ``update``, with full weights that the learner broadcasts.

        Args:
            manifest: What the learner sends.
            rendezvous: Where, with this process's seat.
            known: Whether the policy's present weights are those of a verified version.

        Returns:
            The probe's difference, nats a token.

        Raises:
            SyncError: Refused, or not all got them, or not proven.
        """
        check_manifest(manifest, self._shapes())
        self._shift_reference(manifest.version, known)
        try:
            receive(rendezvous, manifest, self._device, self._put)
        except BroadcastFailed as failure:
            raise SyncError(f"weights of version {manifest.version} were not taken: {failure}") from failure
        return self._probe(manifest)

    def move(self, here: bool) -> None:
        """To the device that scores, or into main memory, where they are of no use until they are back."""
        for model in (self._policy, self._reference):
            if model is not None and self._device.type != "cpu":
                nn.Module.to(model, self._device if here else torch.device("cpu"))
        if not here and self._device.type != "cpu":
            torch.cuda.empty_cache()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        state = self._policy.state_dict()
        seen: dict[int, str] = {}
        for name, tensor in state.items():  # a tied weight counts under its first name
            seen.setdefault(tensor.data_ptr(), name)
        return {name: tuple(state[name].shape) for name in seen.values()}

    def _shift_reference(self, version: int, known: bool) -> None:
        if not self._config.reward.moving_reference or self._shifted_for == version:
            return
        if not known:
            raise SyncError(
                f"version {version}: the policy's former weights are unknown, so there is no "
                "previous_round reference; start the actor anew from two checkpoints"
            )
        assert self._reference is not None, "the config is validated"
        state = self._policy.state_dict()
        for name, tensor in self._reference.state_dict().items():
            tensor.copy_(state[name])
        self._shifted_for = version

    def _put(self, weights: dict[str, Tensor]) -> None:
        state = self._policy.state_dict()
        for name, weight in weights.items():
            state[name].copy_(weight)

    def _probe(self, manifest: WeightsManifest) -> float:
        ids = manifest.probe_ids
        probe = [Segment(ids[:1], (ids[1:],))]
        ((logprobs,),) = segment_logprobs(self._scorer, probe, len(ids), self._device)
        return check_probe(manifest, logprobs.tolist(), self._config.model.dtype)

    def _checked(
        self, manifest: WeightsManifest, arrays: JsonObject, shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        """The policy's new weights by name, without those that stay; an adapter is merged into its base."""
        learner, model = self._config.learner, self._config.model
        if learner.lora is None or not publishes_adapter(learner):
            weights = checked_tensors(manifest, arrays, shapes)
            return {name: weights[name] for name in shapes}
        expected = adapter_shapes(manifest.names, shapes, learner.lora.rank)
        adapter = checked_tensors(manifest, arrays, expected)
        return merge_into(model.policy, adapter, learner.lora, getattr(torch, model.dtype))


def scoring_models(config: Config, policy: Path, reference: Path | None) -> ScoringModels:
    """The models that the run's reward is made of (see ``ScoringModels``).

    Raises:
        UserError: The reward needs a reference and there is none.
    """
    if not config.reward.needs_reference:
        return ScoringModels(config, policy, None)
    if reference is None:
        raise UserError(f"model.reference: reward.kind {config.reward.kind} needs the model that the policy came from")
    if not any(isinstance(one, ImplicitMeasure) for one in config.reward.logprobs.values()):
        return ScoringModels(config, reference, None)
    return ScoringModels(config, policy, reference)
