"""The rows that a round is made of. Plain data: no Ray, no torch.

Keys are natural: (round, prompt id, language, source, sample), so that a repeated write is a no-op.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from rollout.token_ids import TokenIds

Source = str  # name of a source of candidates (``rollout.sources``)
Gate = Literal[
    "ok",
    "language",
    "truncated",
    "empty",
    "garbled",
    "duplicate",
    "translation_failed",
    "unanswered",  # a source that is not the policy gave no answer
    "too_long",  # an answer that is not the policy's leaves no room for its prompt in model.max_length
]
TranslationOutcome = Literal["ok", "salvaged", "failed"]


class Message(NamedTuple):
    """One turn of a chat; ``role`` is system, user or assistant."""

    role: str
    content: str


Turns = str | tuple[Message, ...]  # what a policy answers: a user's text, or a chat that ends with a user's turn


def chat_of(turns: Turns) -> list[dict[str, str]]:
    """The turns in the form that chat templates take."""
    if isinstance(turns, str):
        return [{"role": "user", "content": turns}]
    return [message._asdict() for message in turns]


def text_of_turns(turns: Turns) -> str:
    """The turns as one text, for people."""
    return turns if isinstance(turns, str) else "\n".join(f"{role}: {content}" for role, content in turns)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One instruction in one language; ``id`` joins it with its translations.

    ``text`` is the user's last turn, ``before`` the turns in front of it: a system message, earlier turns of a chat.
    """

    id: str
    language: str
    text: str
    answer: str | None = None
    cluster: str | None = None  # prompts that are right or wrong together; intervals draw whole clusters
    group: str | None = None  # results are also shown by group
    before: tuple[Message, ...] = ()

    @property
    def turns(self) -> Turns:
        """What the policy is to answer."""
        return self.asking(self.text)

    def asking(self, text: str) -> Turns:
        """The same chat with another last turn."""
        return (*self.before, Message("user", text)) if self.before else text


@dataclass(frozen=True, slots=True, order=True)
class CandidateKey:
    """Natural key of a candidate within a run.

    ``source`` names where it comes from; where the config names no sources, "policy" is an answer sampled in
    ``language`` and "translation" one that the policy translated into it. ``origin`` is the language that an answer was
    first given in: ``language`` itself for all but translations.
    """

    round: int
    prompt_id: str
    language: str
    source: Source
    origin: str
    sample: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response and what is known of how it came to be."""

    key: CandidateKey
    text: str  # without end-of-turn token, outer white space stripped
    token_ids: TokenIds  # as sampled, end-of-turn included when it was produced; of text from elsewhere: as encoded
    finish_reason: Literal["stop", "length"]
    weight_version: int | None  # round whose weights produced it, 0 is the start; None: no policy of this run did
    gate: Gate = "ok"
    detected_language: str | None = None  # None: detector unsure or text too short
    translation: TranslationOutcome | None = None  # how the closing tag was found; None for what is no translation
    # The sampler's log-probabilities (nats) of ``token_ids``, little-endian float32 each; None where it was not asked.
    logprobs: bytes | None = None
    model: str | None = None  # which model gave it, where that is not the policy


@dataclass(frozen=True, slots=True)
class Score:
    """Reward of one candidate; ``parts`` holds what it was computed from (nats, lengths)."""

    key: CandidateKey
    reward: float
    parts: dict[str, float] = field(default_factory=dict)


ExampleKind = Literal["pairs", "groups"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair, as trained on: ``prompt`` is the native instruction, or a chat of several turns.

    ``reference_chosen``/``reference_rejected`` are summed log-probabilities (nats, end-of-turn included)
    under the loss reference, computed once and stored; None until the learner has computed them.
    """

    id: str  # unique in a run, e.g. "r0001/es/p17" or "r0001/anchor/p3"
    round: int
    prompt_id: str
    language: str
    source: Literal["mined", "replay", "anchor", "offline"]
    prompt: Turns
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    weight_version: int
    chosen_key: CandidateKey | None = None
    rejected_key: CandidateKey | None = None
    reference_chosen: float | None = None
    reference_rejected: float | None = None
    # What is trained on: the answers' tokens as they were sampled; None where they are encoded from the texts.
    chosen_ids: TokenIds | None = field(default=None, compare=False)
    rejected_ids: TokenIds | None = field(default=None, compare=False)
    # The sampler's log-probabilities of these, where they are those of the policy that the round begins with.
    chosen_logprobs: bytes | None = field(default=None, compare=False)
    rejected_logprobs: bytes | None = field(default=None, compare=False)

    kind: ClassVar[ExampleKind] = "pairs"

    @property
    def units(self) -> int:
        """What it counts for in the mean that a step's loss is."""
        return 1

    @property
    def answers(self) -> tuple[str, ...]:
        """Its texts, the chosen one first."""
        return self.chosen, self.rejected

    @property
    def answer_ids(self) -> tuple[TokenIds | None, ...]:
        """Tokens of ``answers`` as sampled, one entry an answer."""
        return self.chosen_ids, self.rejected_ids

    @property
    def answer_logprobs(self) -> tuple[bytes | None, ...]:
        """The sampler's log-probabilities of ``answer_ids``."""
        return self.chosen_logprobs, self.rejected_logprobs

    @property
    def references(self) -> tuple[float, ...] | None:
        """Reference log-probabilities, one an answer; None unless it has all."""
        good, bad = self.reference_chosen, self.reference_rejected
        return None if good is None or bad is None else (good, bad)


def labelled_pair(
    source: Literal["anchor", "offline"],
    round_number: int,
    name: str,
    language: str,
    prompt: Turns,
    *,
    chosen: str,
    rejected: str,
) -> Pair:
    """A pair that comes from a file. Its scores are 1 and 0 (it was labelled, not scored) and its weight version is 0:
    no policy of this run wrote it, so staleness does not apply.
    """
    return Pair(
        id=f"r{round_number:04d}/{source}/{language}/{name}",
        round=round_number,
        prompt_id=name,
        language=language,
        source=source,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        chosen_score=1.0,
        rejected_score=0.0,
        weight_version=0,
    )


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """All usable answers to one prompt with their rewards: what RLOO trains on, where the DPO family takes a ``Pair``.

    ``completions``, ``rewards``, ``keys`` and ``reference`` go together, one entry an answer, at least two.
    ``reference`` holds summed log-probabilities (nats, end-of-turn included) under the loss reference; None until the
    learner has computed them.
    """

    id: str  # unique in a run, e.g. "r0001/es/p17"
    round: int
    prompt_id: str
    language: str
    prompt: Turns
    completions: tuple[str, ...]
    rewards: tuple[float, ...]
    weight_version: int
    keys: tuple[CandidateKey, ...] = ()
    reference: tuple[float, ...] | None = None
    completion_ids: tuple[TokenIds | None, ...] = field(default=(), compare=False)  # as a pair's; empty is all None
    completion_logprobs: tuple[bytes | None, ...] = field(default=(), compare=False)  # likewise

    kind: ClassVar[ExampleKind] = "groups"

    @property
    def units(self) -> int:
        """As a pair's: each answer counts."""
        return len(self.completions)

    @property
    def answers(self) -> tuple[str, ...]:
        """As a pair's, in the order of ``completions``."""
        return self.completions

    @property
    def answer_ids(self) -> tuple[TokenIds | None, ...]:
        """As a pair's."""
        return self.completion_ids or (None,) * len(self.completions)

    @property
    def answer_logprobs(self) -> tuple[bytes | None, ...]:
        """As a pair's."""
        return self.completion_logprobs or (None,) * len(self.completions)

    @property
    def references(self) -> tuple[float, ...] | None:
        """As a pair's."""
        return self.reference


Example = Pair | SampleGroup  # what the learner takes
