"""What a suite is made of. Plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import xxhash

from rollout.records import Turns

SUITES = (
    "world", "mgsm", "x-alpacaeval", "m-arenahard", "aya", "language-confusion", "head-to-head", "custom"
)  # fmt: skip
JUDGED = ("x-alpacaeval", "m-arenahard", "aya", "head-to-head")


@dataclass(frozen=True, slots=True)
class SuiteItem:
    """One prompt in one language.

    Attributes:
        id: Joins it with the same prompt in other languages.
        language: BCP-47 code.
        instruction: The user's words as the suite has them; what a judge is shown.
        prompt: What the model is asked: the instruction with what the suite puts around it (MGSM's examples), or a chat
            that ends with it.
        gold: Right answer, where there is one.
        where: file:line, for messages.
    """

    id: str
    language: str
    instruction: str
    prompt: Turns
    gold: str | None
    where: str

    @property
    def key(self) -> tuple[str, str]:
        """(language, id), which is unique in a suite."""
        return self.language, self.id


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite as it is asked.

    Attributes:
        name: One of ``SUITES``.
        data: Where it was read from.
        languages: In the order asked for.
        items: By language, in file order.
        shots: Worked examples before each question (MGSM only).
    """

    name: str
    data: str
    languages: tuple[str, ...]
    items: tuple[SuiteItem, ...]
    shots: int = 0

    @property
    def has_gold(self) -> bool:
        """Whether its answers can be right or wrong (all items carry a gold answer, or none does)."""
        return self.items[0].gold is not None

    def of(self, language: str) -> list[SuiteItem]:
        """The items of one language."""
        return [item for item in self.items if item.language == language]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are made; with the weights and the prompt it is what an answer is kept under.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass.
        max_new_tokens: Longest answer, end of turn included.
        dtype: Of weights and arithmetic.
        add_bos: See ``model.add_bos`` of the config.
        seed: Of sampled answers; greedy ones don't depend on it.
        template_date: See ``model.template_date`` of the config, as ISO 8601; None is the day of the evaluation.
        chat_template: See ``model.chat_template`` of the config; None is that of the model's folder.
        template_values: See ``model.chat_template_kwargs`` of the config.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    dtype: str
    add_bos: bool
    seed: int
    template_date: str | None = None
    chat_template: str | None = None
    template_values: dict[str, object] = field(default_factory=dict)

    def key(self, checksum: str, item: SuiteItem) -> str:
        """What an answer to ``item`` is kept under, 32 hexadecimal digits.

        Args:
            checksum: Of the model folder (``weights.model_checksum``).
            item: The id counts only where the answer is sampled: it is part of the seed.
        """
        fields = asdict(self)
        if self.temperature == 0:
            fields["seed"] = None
        for name in ("template_date", "chat_template", "template_values"):
            if not fields[name]:
                del fields[name]  # answers that were kept before there was such a field
        place = None if self.temperature == 0 else [item.language, item.id]
        return xxhash.xxh3_128_hexdigest(json.dumps([checksum, item.prompt, fields, place], sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to one item.

    Attributes:
        text: Without the end of turn, outer white space stripped; may be empty.
        finish: "stop" or "length"; None where the answer came from a file.
        tokens: Of it, end of turn included; None where the answer came from a file.
    """

    text: str
    finish: str | None = None
    tokens: int | None = None

    @property
    def empty(self) -> bool:
        """Nothing but white space."""
        return not self.text.strip()


Answers = dict[tuple[str, str], Answer]  # (language, id) -> answer, one for each item of the suite
