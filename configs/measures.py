"""What a single reward measures, by kind: the fields of ``reward.kind`` and of the terms of ``reward.kind: terms``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.base import LanguageCode, Section
from configs.chat import TemplateText
from configs.plugins import PLUGIN_PATTERN


class Measure(Section):
    """Fields of one kind of reward."""


class ImplicitMeasure(Measure):
    """Log-ratio of policy and reference, nats (ICR, arXiv 2503.04647)."""

    prompt: Literal["crosslingual", "native", "translated"] = Field(
        "crosslingual",
        description="Prompt side of the reward: English instruction that asks for the language (R_c), "
        "the native one (R_m), or English on both sides after self-translation (R_t).",
    )
    policy: Literal["current", "initial"] = Field(
        "current", description="Numerator of the log-ratio: the policy of the round, or the one of the start."
    )
    reference: Literal["initial", "previous_round"] = Field(
        "initial",
        description="Denominator: `model.reference` in every round, or the policy one round back "
        "(`model.reference` in the first).",
    )

    @model_validator(mode="after")
    def _order_of_versions(self) -> ImplicitMeasure:
        if self.policy == "initial" and self.reference == "previous_round":
            raise ValueError(
                "policy: initial with reference previous_round would compare an older policy with a newer one; set "
                "policy to current or reference to initial"
            )
        return self


class LikelihoodMeasure(Measure):
    """Log-probability of the answer under one model."""

    prompt: Literal["crosslingual", "native"] = Field(
        "crosslingual",
        description="What the answer is likely under: the English instruction that asks for the language, or the "
        "native one.",
    )
    policy: Literal["current", "initial", "reference"] = Field(
        "current",
        description="The model whose likelihood it is: the policy of the round, the one of the start, or "
        "`model.reference`.",
    )
    subtract: Literal["none", "native", "unconditional"] = Field(
        "none",
        description="What it is measured against, under the same model: nothing, the likelihood under the "
        "native instruction, or the one under an instruction that names the language and asks nothing.",
    )

    @property
    def per(self) -> Literal["sum", "token"]:
        """Unit: nats an answer, or nats a token (end of turn included)."""
        return "sum"

    @model_validator(mode="after")
    def _something_is_left(self) -> LikelihoodMeasure:
        if self.subtract == "native" and self.prompt == "native":
            raise ValueError("subtract: native less native is nothing; set prompt to crosslingual")
        return self


class VerifierMeasure(Measure):
    """1 where the gold answer is met, else 0."""


class JudgeMeasure(Measure):
    """Share of comparisons with other candidates that a judge lets an answer win (section `judge`)."""


class RewardModelMeasure(Measure):
    """Score of a sequence classifier."""

    model: Path = Field(
        ...,
        description="Hugging Face folder of the reward model (a sequence-classification head with one label and a "
        "chat template of its own).",
    )
    model_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Weights and arithmetic of `model`; scores are float32."
    )
    chat_template: TemplateText | None = Field(
        None, description="A chat template in place of the reward model's: a file, or the template itself."
    )
    chat_template_kwargs: dict[str, object] = Field(
        default_factory=dict, description="Values of variables of the reward model's chat template."
    )


class CustomMeasure(Measure):
    """A function of your own (docs/extending.md)."""

    function: str = Field(
        ...,
        pattern=PLUGIN_PATTERN,
        description="The function, as `package.module:function` or the name of an entry point of `isogloss.rewards`.",
    )
    options: dict[str, object] = Field(default_factory=dict, description="Keyword arguments that it is called with.")
    timeout_s: float = Field(60.0, gt=0, description="Deadline of one call: the answers of a chunk of prompts.")


class LanguageMeasure(Measure):
    """Confidence, 0 to 1, that an answer is in the language that was asked for: the mean over slices of it."""

    slice_words: int = Field(
        12,
        ge=1,
        description="Words of a slice, at least; of scripts without spaces three times as many characters. An answer "
        "that begins in one language and ends in another is seen so.",
    )


class RepetitionMeasure(Measure):
    """Share of distinct n-grams of words less the share of words in loops: 1 where nothing is repeated, at least -1."""

    ngram: int = Field(
        3,
        ge=1,
        le=20,
        description="Words of an n-gram (characters, in scripts without spaces or a text without words).",
    )
    longest_loop: int = Field(
        20, ge=1, le=200, description="Words of the longest loop; three times the same in a row make one."
    )


class EchoMeasure(Measure):
    """1 less the share of the answer's n-grams of words that stand in the prompt: 0 for an answer that says it back.

    The prompt is the user's last turn. A reward for the right language or against loops is highest for an answer that
    copies the question.
    """

    ngram: int = Field(3, ge=1, le=20, description="Words (characters, in scripts without spaces) of an n-gram.")


class WordsMeasure(Measure):
    """Share of the answer's distinct words that are words of the language asked for, by a word list.

    A reward for the right language or against loops is cheaply met with words that nobody has. Words of one letter and
    a last one that may be cut off do not count; an answer without any is worth 1, and so is every answer in a language
    that has no list, or puts no spaces between words, which is said at the start.
    """

    files: dict[LanguageCode, Path] = Field(
        default_factory=dict,
        description="Word lists of your own by language, text files with a word a line (of what else a line has, such "
        "as counts, nothing is taken). Other languages have "
        "wordfreq's, where it has one (39 languages; extra `isogloss[words]`; 2 to 115 MB of memory each).",
    )


class LengthMeasure(Measure):
    """1 from `low` to `high`; in proportion below, falling to 0 at twice `high`."""

    unit: Literal["words", "characters", "tokens"] = Field("words", description="What length is counted in.")
    low: int | None = Field(None, ge=1, description="Shortest length that is worth 1.")
    high: int | None = Field(None, ge=1, description="Longest length that is worth 1.")

    @model_validator(mode="after")
    def _bounds(self) -> LengthMeasure:
        if self.low is None and self.high is None:
            raise ValueError("low: neither low nor high is set, so that no length is better; set one")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low: {self.low} is above high {self.high}; swap them")
        return self


class OverlongMeasure(Measure):
    """Penalty on long answers: 0, falling to -1 over the last `buffer` tokens, -1 where cut off (DAPO, 2503.14476).

    With `gates.truncated: false` it takes the gate's place.
    """

    longest: int | None = Field(None, ge=1, description="Tokens; default `rollout.max_new_tokens`.")
    buffer: int = Field(..., ge=1, description="Tokens before `longest` over which the penalty grows.")

    @model_validator(mode="after")
    def _room(self) -> OverlongMeasure:
        if self.longest is not None and self.buffer >= self.longest:
            raise ValueError(f"buffer: {self.buffer} leaves nothing of longest {self.longest}; lower it")
        return self


class FormatMeasure(Measure):
    """1 where a regular expression is found in the answer, else 0."""

    pattern: str = Field(
        ..., min_length=1, description="Python's syntax; `.` is any character, `\\A` and `\\Z` are both ends."
    )

    @model_validator(mode="after")
    def _compiles(self) -> FormatMeasure:
        try:
            re.compile(self.pattern, re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"pattern: no regular expression ({error}); correct it") from None
        return self


LogprobMeasure = ImplicitMeasure | LikelihoodMeasure
