"""From text to token ids: one place decides on chat template, BOS and end of turn.

Sampling, scoring and training all go through ``ChatEncoder``, so that they cannot disagree.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.reading import read_json, shown
from configs.schema import ModelConfig
from learners.chat_template import ChatTemplate, special_texts
from learners.tokenizer import load_tokenizer
from rollout.records import Turns, chat_of
from rollout.token_ids import TokenIds

logger = logging.getLogger(__name__)

# Stands for a special token that a text spells, while the chat is rendered.
_MARK = "isoglossplaintext"
_PARALLEL = "TOKENIZERS_PARALLELISM"
_AT_ONCE = 1000  # prompts of one call of the tokenizer, which takes them on all cores


def _tokens_of_a_byte(backend: Any) -> int | None:
    """At most how many tokens a byte of a text becomes; None where that is not known.

    A byte-level tokenizer makes no token of less than a byte. Composing characters (NFC) makes a text up to three times
    as long in UTF-8 (Unicode's UAX 15); other normalisations may do anything.
    """
    if "ByteLevel(" not in str(backend.pre_tokenizer):
        return None
    return {"None": 1, "NFC()": 3}.get(str(backend.normalizer))


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


def answer_tokens(encoder: ChatEncoder, text: str, ids: TokenIds | None) -> tuple[int, ...]:
    """Tokens of an answer, its end included: ``ids`` as they were sampled, or else ``text`` encoded."""
    return tuple(encoder.completion_ids(text) if ids is None else ids)


def same_vocabulary(one: Path, other: Path) -> bool:
    """Whether the tokens of two model folders are the same, by number."""
    if one.resolve() == other.resolve():
        return True
    files = [folder / "tokenizer.json" for folder in (one, other)]
    if all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes():
        return True
    vocabularies = [load_tokenizer(folder).get_vocab() for folder in (one, other)]
    return bool(vocabularies[0] == vocabularies[1])


class ChatEncoder:
    """The tokenizer of a model folder with the decisions that must be the same everywhere.

    * **BOS**: what the chat template puts is kept; ``add_bos`` adds one where the template puts none. A prompt never
      starts with two.
    * **End of turn**: the token that the chat template puts after an assistant message: of its text there the first
      that is one of ``generation_config.eos_token_id``, else the first special token. Where the template puts nothing
      after the last turn: what it puts after an answer when the chat continues, if generation ends at it; else the
      tokenizer's ``eos_token_id``, if generation ends at it; else the first at which generation ends.
    * **Texts are plain text**: a prompt or a completion that spells a special token is not turned into that token.
    * **Date**: templates that ask for it get the same one all through a run.

    Args:
        folder: Hugging Face folder with tokenizer and chat template.
        add_bos: Put BOS in front of prompts whose template has none (``model.add_bos``).
        date: For templates that ask for it (``model.template_date``); by default today.
        template: Instead of the folder's (``model.chat_template``).
        values: Of the template's variables (``model.chat_template_kwargs``).

    Raises:
        UserError: The folder, its tokenizer, or a needed special token is missing, or the chat template is of no use.
    """

    def __init__(
        self,
        folder: Path,
        add_bos: bool = False,
        date: datetime.date | None = None,
        template: str | None = None,
        values: Mapping[str, object] | None = None,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such model folder; set model.policy to a Hugging Face folder")
        if not any(self.folder.glob("tokenizer*")):
            raise UserError(f"{self.folder}: has no tokenizer files; save the tokenizer there (tokenizer.json)")
        try:
            self.tokenizer = load_tokenizer(self.folder)
        except Exception as error:  # the tokenizers library raises Exception itself
            raise UserError(f"{self.folder}: its tokenizer cannot be read ({error}); save it again") from error
        self._bos: int | None = self.tokenizer.bos_token_id
        if add_bos and self._bos is None:
            raise UserError(f"{self.folder}: model.add_bos is true but the tokenizer has no BOS; set it to false")
        bos = self.tokenizer.bos_token if add_bos else None
        self.template = ChatTemplate(self.folder, self.tokenizer, date, template, values, bos=bos)
        self.special_tokens = tuple(sorted(special_texts(self.tokenizer), key=lambda token: (-len(token), token)))
        self._special = re.compile("|".join(map(re.escape, self.special_tokens)) or r"(?!)")
        self._add_bos = add_bos
        self.end_of_turn_id: int = self._find_end_of_turn()
        self._stop_ids = tuple(dict.fromkeys((self.end_of_turn_id, *self._generation_eos())))

    @classmethod
    def of(cls, model: ModelConfig, folder: Path) -> ChatEncoder:
        """The encoder of a run for one of its folders: the start, a checkpoint or the reference.

        Raises:
            UserError: As the constructor.
        """
        return cls(folder, model.add_bos, model.template_date, model.chat_template, model.chat_template_kwargs)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a sampled answer: the end of turn first, then all of ``generation_config.eos_token_id``."""
        return self._stop_ids

    def prompt_ids(self, prompt: Turns, prime: str = "") -> list[int]:
        """Token ids of a user's turn or a whole chat, the opening of the assistant's turn, and its primed start.

        Raises:
            UserError: The chat template refuses these turns (many refuse system messages, or two turns of one role).
        """
        return self._with_bos(self._chat_ids(chat_of(prompt), prime))

    def prompt_lengths(self, prompts: Sequence[Turns], enough: int = 0) -> list[int]:
        """Number of token ids that :meth:`prompt_ids` gives for each, several times as fast as one by one.

        Args:
            prompts: To be counted.
            enough: What has surely no more tokens than this need not be counted: it gets a number that is at least its
                own and at most this.

        Raises:
            UserError: As :meth:`prompt_ids`.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [len(self.prompt_ids(prompt)) for prompt in prompts]
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False  # of ``_encode``; a completion before may have switched it
        most = _tokens_of_a_byte(backend)
        lengths = [-1] * len(prompts)
        odd = [index for index, prompt in enumerate(prompts) if self.spelled(prompt)]
        usual = sorted({*range(len(prompts))}.difference(odd))
        for start in range(0, len(usual), _AT_ONCE):
            long: dict[int, str] = {}
            for index in usual[start : start + _AT_ONCE]:
                text = self.template.render(chat_of(prompts[index]), generation_prompt=True)
                # One more for a space that the tokenizer puts in front, one for BOS.
                lengths[index] = enough + 1 if most is None else most * len(text.encode()) + 2
                if lengths[index] > enough:
                    long[index] = text
            with _on_all_cores():
                encoded = backend.encode_batch_fast(list(long.values()), add_special_tokens=False)
            for index, one in zip(long, encoded, strict=True):
                lengths[index] = len(one) if self._bos is None else len(self._with_bos(one.ids))
        for index in odd:
            lengths[index] = len(self.prompt_ids(prompts[index]))
        return lengths

    def _with_bos(self, ids: list[int]) -> list[int]:
        if self._bos is None:
            return ids
        start = 0
        while start < len(ids) and ids[start] == self._bos:
            start += 1
        wanted = self._add_bos or start > 0
        return ([self._bos] if wanted else []) + ids[start:]

    def spelled(self, prompt: Turns) -> list[str]:
        """The special tokens that a user's turn or a chat's turns spell, in order; they are taken as plain text."""
        return [token for one in chat_of(prompt) for token in self._special.findall(one["content"])]

    def _chat_ids(self, chat: list[dict[str, str]], prime: str) -> list[int]:
        if not any(self._special.search(one["content"]) for one in chat):
            return self._encode(self.template.render(chat, generation_prompt=True) + prime)
        # Rendered with a mark in place of each special token that a text spells; what the template puts is parsed, and
        # at the marks the tokens' names are encoded as plain text.
        mark = _MARK
        while any(mark in one["content"] for one in chat):
            mark += "x"
        spelled: list[str] = []

        def hide(match: re.Match[str]) -> str:
            spelled.append(match[0])
            return f"{mark}{len(spelled) - 1}e"

        hidden = [{**one, "content": self._special.sub(hide, one["content"])} for one in chat]
        pieces = re.split(f"{mark}([0-9]+)e", self.template.render(hidden, generation_prompt=True) + prime)
        ids = self._encode(pieces[0])
        for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            ids += self._encode(spelled[int(number)], plain=True) + self._encode(piece)
        return ids

    def completion_ids(self, text: str) -> list[int]:
        """Token ids of an assistant's text and the end of its turn."""
        return [*self._encode(text, plain=True), self.end_of_turn_id]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """Text of a completion, special tokens left out, outer white space stripped."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _encode(self, text: str, plain: bool = False) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]
        return [int(token) for token in ids]

    def _generation_eos(self) -> list[int]:
        # Not through Transformers' GenerationConfig, which imports seconds' worth of models' code.
        path = self.folder / "generation_config.json"
        if not path.is_file():
            return []
        cure = "save the model again"
        found = read_json(path, "settings of generation", cure)
        eos = found.get("eos_token_id") if isinstance(found, dict) else None
        ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if not isinstance(found, dict) or not all(type(one) is int and one >= 0 for one in ids):
            raise UserError(
                f"{path}: eos_token_id is {shown(eos)}, neither a token's number nor a list of such; {cure}"
            )
        return ids

    def _find_end_of_turn(self) -> int:
        closing, continued = self._encode(self.template.after), self._encode(self.template.continued)
        eos = self._generation_eos()
        own: int | None = self.tokenizer.eos_token_id
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for group in (
            [token for token in closing if token in eos],
            [token for token in closing if token in special],
            [token for token in continued if token in eos or token == own],
            [own] if own is not None and (own in eos or not eos) else [],
            eos,
        ):
            if group:
                return int(group[0])
        raise UserError(f"{self.folder}: nothing ends an assistant's turn; set eos_token_id in generation_config.json")
