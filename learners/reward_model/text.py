"""The text that a reward model reads: the same in training and in scoring."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learners.chat_template import ChatTemplate
from rollout.records import Turns, chat_of


class RewardText:
    """A conversation and its answer as token ids.

    Args:
        folder: Of the model, for messages.
        tokenizer: Its tokenizer.
        date: For a chat template that asks for it; by default today.
        template: Instead of the folder's.
        values: Of the template's variables.

    Raises:
        UserError: There is no usable chat template.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        date: datetime.date | None = None,
        template: str | None = None,
        values: Mapping[str, object] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(folder, tokenizer, date, template, values)
        added = tokenizer.added_tokens_decoder.values()
        self._specials = sorted({*tokenizer.all_special_tokens, *(t.content for t in added if t.special)})

    def encode(self, instruction: Turns, answer: str) -> list[int]:
        """Token ids of the conversation, as the model's own chat template renders it."""
        conversation = [*chat_of(instruction), {"role": "assistant", "content": answer}]
        # A policy that learned to write the reward model's special tokens could end its own turn and praise itself.
        for token in self._specials:
            conversation = [{**one, "content": one["content"].replace(token, " ")} for one in conversation]
        text = self._template.render(conversation)
        return [int(token) for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]]
