"""A reward model: a sequence classifier with one label, which scores an instruction with its answer."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.model_config import read_model_config
from configs.reading import shown
from learners.chat_template import ChatTemplate
from learners.reward_model.text import RewardText
from learners.tokenizer import load_tokenizer
from rollout.gates import passed
from rollout.language import answer_part
from rollout.prompts import PromptSet
from rollout.records import Candidate, Score, Turns
from rollout.rewards import scores_of

_HEAD = "ForSequenceClassification"


def check_reward_model(folder: Path, field: str = "reward.model") -> None:
    """Whether a folder holds a reward model, as far as its ``config.json`` tells.

    Raises:
        UserError: It does not; says why.
    """
    config = read_model_config(folder, field)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        architectures = ["no architecture"]
    named = shown(", ".join(map(str, architectures)))
    if not any(str(name).endswith(_HEAD) for name in architectures):
        raise UserError(
            f"{field}: {folder} is a {named}, which gives no score; name a model with "
            f"a sequence-classification head (…{_HEAD}), or use it as a judge (reward.kind: judge)"
        )
    names = config.get("id2label")
    known = len(names) if isinstance(names, dict) and names else 2  # as Transformers takes it
    labels = config.get("num_labels") or known
    if labels != 1:
        raise UserError(
            f"{field}: {folder} has {shown(labels)} labels; a reward model has 1 (num_labels 1): a classifier over "
            "several classes has no single score"
        )


class RewardModel:
    """A reward model with its tokenizer and chat template, which need not be the policy's.

    Args:
        folder: Hugging Face folder.
        dtype: ``float32`` or ``bfloat16``.
        tokens_per_micro_batch: Positions of one forward pass, padding included.
        device: Where it computes.
        date: For a chat template that asks for it (``model.template_date``); by default today.
        field: The config field that names the folder, for messages.
        template: Instead of the folder's (``reward.chat_template``).
        values: Of the template's variables (``reward.chat_template_kwargs``).

    Raises:
        UserError: The folder is unusable: no classification head (or one without weights), several labels, no
            tokenizer or chat template.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        tokens_per_micro_batch: int,
        device: torch.device,
        date: datetime.date | None = None,
        *,
        field: str = "reward.model",
        template: str | None = None,
        values: Mapping[str, object] | None = None,
    ) -> None:
        check_reward_model(folder, field)
        disable_progress_bar()
        try:
            self._tokenizer = load_tokenizer(folder)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{field}: {folder} cannot be loaded ({error}); save model and tokenizer again") from error
        missing = sorted(report["missing_keys"])
        if missing:
            raise UserError(
                f"{field}: {folder} lacks weights ({', '.join(missing[:5])}), which would be random; name a folder "
                "with a trained head"
            )
        try:
            self._text = RewardText(ChatTemplate(folder, self._tokenizer, date, template, values), self._tokenizer)
        except UserError as error:
            raise UserError(f"{field}: {error}") from error
        self._budget = tokens_per_micro_batch
        self._device = device
        self._model = model.to(device).eval().requires_grad_(False)
        text_config = self._model.config.get_text_config()
        self._longest: int | None = getattr(text_config, "max_position_embeddings", None)
        # The model scores the last token that is not padding. Without a padding token of its own it scores the last
        # one, which an end of turn that doubles as padding would change: such a model gets one text at a time.
        if text_config.pad_token_id is None and self._tokenizer.pad_token_id != self._tokenizer.eos_token_id:
            text_config.pad_token_id = self._tokenizer.pad_token_id
        self._pad: int | None = text_config.pad_token_id

    def move(self, here: bool) -> None:
        """To the device that scores, or into main memory, where the model is of no use until it is back."""
        if self._device.type != "cpu":
            nn.Module.to(self._model, self._device if here else torch.device("cpu"))
            torch.cuda.empty_cache()

    def encode(self, instruction: Turns, answer: str) -> list[int]:
        """Token ids of the conversation, as the model's own chat template renders it."""
        return self._text.encode(instruction, answer)

    def score(self, texts: Sequence[tuple[Turns, str]]) -> tuple[list[float | None], int]:
        """Scores of (instruction, answer), None for one that is longer than the model reads; and the tokens scored.

        Raises:
            FloatingPointError: A score is not finite.
        """
        rows = [self.encode(instruction, answer) for instruction, answer in texts]
        fits = [index for index, row in enumerate(rows) if self._longest is None or len(row) <= self._longest]
        scores: list[float | None] = [None] * len(rows)
        for batch in self._batches(sorted(fits, key=lambda index: (len(rows[index]), index)), rows):
            values = self._forward([rows[index] for index in batch])
            for index, value in zip(batch, values, strict=True):
                scores[index] = value
        return scores, sum(len(rows[index]) for index in fits)

    def _batches(self, order: Sequence[int], rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Consecutive texts of about one length, as many as the budget holds, at least one."""
        batches: list[list[int]] = []
        for index in order:
            full = not batches or self._pad is None or len(rows[index]) * (len(batches[-1]) + 1) > self._budget
            if full:
                batches.append([])
            batches[-1].append(index)
        return batches

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._pad or 0)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        output = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        values = output.logits[:, 0].float()
        if not bool(torch.isfinite(values).all()):
            raise FloatingPointError("the reward model gives scores that are not finite")
        return [float(value) for value in values]


def reward_model_scores(
    model: RewardModel, prompts: PromptSet, candidates: Sequence[Candidate]
) -> tuple[list[Score], Counter[tuple[str, str]], int]:
    """Scores of the candidates that passed the gates, each under its native instruction.

    Returns:
        Scores in the order of ``candidates``; (language, why) -> candidates without one, why is "gated" or "too_long";
        and the tokens scored.
    """
    taken, skipped = passed(candidates)
    asked = [prompts.get(c.key.prompt_id, c.key.language).turns for c in taken]
    values, tokens = model.score([(text, answer_part(c.text)) for text, c in zip(asked, taken, strict=True)])
    scores, missing = scores_of(taken, values, "too_long")
    return scores, skipped + missing, tokens
