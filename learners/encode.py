"""From text to token ids: one place decides on chat template, BOS and end of turn.

Sampling, scoring and training all go through ``ChatEncoder``, so that they cannot disagree.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig

from configs.errors import UserError
from rollout.records import Turns, chat_of

logger = logging.getLogger(__name__)

_PARALLEL = "TOKENIZERS_PARALLELISM"
_AT_ONCE = 1000  # prompts of one call of the tokenizer, which takes them on all cores

# An unlikely string, to find in a rendered chat where the assistant's text ends.
_SENTINEL = "isoglossassistantanswer"


@contextlib.contextmanager
def _on_all_cores() -> Iterator[None]:
    # The processes of a run have this switched off; the tokenizers library reads it at each call.
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "true"
    try:
        yield
    finally:
        # Never unset: without it the library warns of every later fork.
        os.environ[_PARALLEL] = before or "false"


class ChatEncoder:
    """The tokenizer of a model folder with the three decisions that must be the same everywhere.

    * **BOS**: what the chat template puts is kept; ``add_bos`` adds one where the template puts none. A
    prompt
      never starts with two.
    * **End of turn**: the token that the chat template puts after an assistant message. Where the template's
      text after it holds one of ``generation_config.eos_token_id``, it is that one; else the first special
      token of that text; else the first of ``generation_config.eos_token_id``; else the tokenizer's
      ``eos_token_id``.
    * **Completion text is plain text**: a completion that spells a special token is not turned into that
    token.

    Args:
        folder: Hugging Face folder with tokenizer and chat template.
        add_bos: Put BOS in front of prompts whose template has none (``model.add_bos``).

    Raises:
        UserError: The folder, its tokenizer, its chat template, or a needed special token is missing.
    """

    def __init__(self, folder: Path, add_bos: bool = False) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such model folder; set model.policy to a Hugging Face folder")
        if not any(self.folder.glob("tokenizer*")):
            raise UserError(f"{self.folder}: has no tokenizer files; save the tokenizer there (tokenizer.json)")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder}: its tokenizer cannot be read ({error}); save it again") from error
        if not self.tokenizer.chat_template:
            raise UserError(
                f"{self.folder}: the tokenizer has no chat template; put a chat_template.jinja into "
                "the folder (an instruction-tuned variant of the model ships one)"
            )
        self._bos: int | None = self.tokenizer.bos_token_id
        if add_bos and self._bos is None:
            raise UserError(f"{self.folder}: model.add_bos is true but the tokenizer has no BOS; set it to false")
        self._add_bos = add_bos
        self.end_of_turn_id: int = self._find_end_of_turn()

    def prompt_ids(self, prompt: Turns, prime: str = "") -> list[int]:
        """Token ids of a user's turn or a whole chat, the opening of the assistant's turn, and its primed start.

        Raises:
            UserError: The chat template refuses these turns (many refuse system messages, or two turns of one role).
        """
        return self._with_bos(self._encode(self._opened(prompt) + prime))

    def prompt_lengths(self, prompts: Sequence[Turns]) -> list[int]:
        """Number of token ids that :meth:`prompt_ids` gives for each, several times as fast as one by one.

        Raises:
            UserError: As :meth:`prompt_ids`.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [len(self.prompt_ids(prompt)) for prompt in prompts]
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False  # of ``_encode``; a completion before may have switched it
        lengths: list[int] = []
        for start in range(0, len(prompts), _AT_ONCE):
            rendered = [self._opened(prompt) for prompt in prompts[start : start + _AT_ONCE]]
            with _on_all_cores():
                encoded = backend.encode_batch_fast(rendered, add_special_tokens=False)
            if self._bos is None:
                lengths.extend(len(one) for one in encoded)
            else:
                lengths.extend(len(self._with_bos(one.ids)) for one in encoded)
        return lengths

    def _opened(self, prompt: Turns) -> str:
        try:
            return self._render(chat_of(prompt), generation_prompt=True)
        except TemplateError as error:
            raise UserError(f"{self.folder}: its chat template refuses the prompt's turns ({error})") from error

    def _with_bos(self, ids: list[int]) -> list[int]:
        if self._bos is None:
            return ids
        start = 0
        while start < len(ids) and ids[start] == self._bos:
            start += 1
        wanted = self._add_bos or start > 0
        return ([self._bos] if wanted else []) + ids[start:]

    def completion_ids(self, text: str) -> list[int]:
        """Token ids of an assistant's text and the end of its turn."""
        return [*self._encode(text, plain=True), self.end_of_turn_id]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """Text of a completion, special tokens left out, outer white space stripped."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _encode(self, text: str, plain: bool = False) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]
        return [int(token) for token in ids]

    def _render(self, messages: list[dict[str, str]], generation_prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        )

    def _generation_eos(self) -> list[int]:
        if not (self.folder / "generation_config.json").is_file():
            return []
        eos = GenerationConfig.from_pretrained(self.folder, local_files_only=True).eos_token_id
        if eos is None:
            return []
        return [eos] if isinstance(eos, int) else list(eos)

    def _find_end_of_turn(self) -> int:
        chat = self._render(
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": _SENTINEL}],
            generation_prompt=False,
        )
        _, found, after = chat.rpartition(_SENTINEL)
        closing = self._encode(after) if found else []
        eos = self._generation_eos()
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for group in (
            [token for token in closing if token in eos],
            [token for token in closing if token in special],
            eos,
        ):
            if group:
                return int(group[0])
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.folder}: nothing ends an assistant's turn; set eos_token_id in generation_config.json"
            )
        return int(self.tokenizer.eos_token_id)
