"""The text that a reward model reads: the same in training and in scoring."""

from __future__ import annotations

from typing import Any

from learners.chat_template import ChatTemplate, special_texts
from rollout.records import Turns, chat_of


class RewardText:
    """A conversation and its answer as token ids.

    Args:
        template: Of the model.
        tokenizer: The template's.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Any) -> None:
        self._template, self._tokenizer = template, tokenizer
        self._specials = sorted(special_texts(tokenizer))

    def encode(self, instruction: Turns, answer: str) -> list[int]:
        """Token ids of the conversation, as the model's own chat template renders it."""
        conversation = [*chat_of(instruction), {"role": "assistant", "content": answer}]
        # A policy that learned to write the reward model's special tokens could end its own turn and praise itself.
        for token in self._specials:
            conversation = [{**one, "content": one["content"].replace(token, " ")} for one in conversation]
        text = self._template.render(conversation)
        return [int(token) for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]]
