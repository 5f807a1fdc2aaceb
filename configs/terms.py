"""Rewards that are added up: ``reward.kind: terms``, each term with its own kind, weight and scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from configs.base import Section
from configs.measures import (
    CustomMeasure,
    EchoMeasure,
    FormatMeasure,
    ImplicitMeasure,
    JudgeMeasure,
    LanguageMeasure,
    LengthMeasure,
    LikelihoodMeasure,
    LogprobMeasure,
    Measure,
    OverlongMeasure,
    RepetitionMeasure,
    RewardModelMeasure,
    VerifierMeasure,
    WordsMeasure,
)


class TermSection(Section):
    """One of several rewards that are added up."""

    weight: float = Field(1.0, description="Factor of the term; 0 measures it and shows it, and no more.")
    normalise: Literal["none", "group", "batch"] = Field(
        "none",
        description="Scale before the weight: as it is, or less the mean and by the standard deviation, over the "
        "answers to a prompt in a language (`group`, GDPO, arXiv 2601.05242) or over all answers of a round (`batch`).",
    )


class ImplicitTerm(TermSection, ImplicitMeasure):
    """Log-ratio of policy and reference, nats (ICR, arXiv 2503.04647)."""

    kind: Literal["implicit"]


class LikelihoodTerm(TermSection, LikelihoodMeasure):
    """Log-probability of the answer under one model."""

    kind: Literal["likelihood"]
    unit: Literal["sum", "token"] = Field(
        "token", description="Nats an answer, or nats a token (end of turn included)."
    )

    @property
    def per(self) -> Literal["sum", "token"]:
        """Unit of the likelihood."""
        return self.unit


class VerifierTerm(TermSection, VerifierMeasure):
    """1 where the gold answer is met, else 0."""

    kind: Literal["verifier"]


class JudgeTerm(TermSection, JudgeMeasure):
    """Share of comparisons with other candidates that a judge lets an answer win (section `judge`)."""

    kind: Literal["judge"]


class RewardModelTerm(TermSection, RewardModelMeasure):
    """Score of a sequence classifier."""

    kind: Literal["reward_model"]


class CustomTerm(TermSection, CustomMeasure):
    """A function of your own (docs/extending.md)."""

    kind: Literal["custom"]


class LanguageTerm(TermSection, LanguageMeasure):
    """Confidence, 0 to 1, that an answer is in the language that was asked for: the mean over slices of it."""

    kind: Literal["language"]


class RepetitionTerm(TermSection, RepetitionMeasure):
    """Share of distinct n-grams of words less the share of words in loops: 1 where nothing is repeated, at least -1."""

    kind: Literal["repetition"]


class EchoTerm(TermSection, EchoMeasure):
    __doc__ = EchoMeasure.__doc__

    kind: Literal["echo"]


class WordsTerm(TermSection, WordsMeasure):
    __doc__ = WordsMeasure.__doc__

    kind: Literal["words"]


class LengthTerm(TermSection, LengthMeasure):
    """1 from `low` to `high`; in proportion below, falling to 0 at twice `high`."""

    kind: Literal["length"]


class OverlongTerm(TermSection, OverlongMeasure):
    """Penalty on long answers: 0, falling to -1 over the last `buffer` tokens, -1 where cut off (DAPO, 2503.14476).

    With `gates.truncated: false` it takes the gate's place.
    """

    kind: Literal["overlong"]


class FormatTerm(TermSection, FormatMeasure):
    """1 where a regular expression is found in the answer, else 0."""

    kind: Literal["format"]


Term = Annotated[
    LanguageTerm
    | RepetitionTerm
    | EchoTerm
    | WordsTerm
    | LikelihoodTerm
    | LengthTerm
    | OverlongTerm
    | FormatTerm
    | ImplicitTerm
    | VerifierTerm
    | JudgeTerm
    | RewardModelTerm
    | CustomTerm,
    Field(discriminator="kind"),
]
TermName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=40)]


class Terms(Section):
    """The terms of a reward."""

    terms: Annotated[dict[TermName, Term], Field(min_length=1, max_length=20)] = Field(
        ..., description="The rewards that are added up, by a name of your choice; each has `kind`, `weight`, "
        "`normalise` and the fields of its kind, all listed below."
    )  # fmt: skip

    @model_validator(mode="after")
    def _terms_agree(self) -> Terms:
        if all(term.weight == 0 for term in self.terms.values()):
            raise ValueError("terms: every weight is 0, so that no answer is better than another; raise one")
        judges = [name for name, term in self.terms.items() if isinstance(term, JudgeMeasure)]
        if len(judges) > 1:
            raise ValueError(f"terms: {' and '.join(judges)} ask the same judge the same; remove one")
        by_model: dict[str, LogprobMeasure] = {
            name: term for name, term in self.terms.items() if isinstance(term, ImplicitMeasure | LikelihoodMeasure)
        }
        self._agree("policy", {name: one.policy for name, one in by_model.items()})
        self._agree(
            "reference", {name: one.reference for name, one in by_model.items() if isinstance(one, ImplicitMeasure)}
        )
        return self

    @staticmethod
    def _agree(field: str, values: Mapping[str, str]) -> None:
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise ValueError(
                f"terms: terms made of log-probabilities share their models, and these have different {field} "
                f"({listed}); set it alike"
            )

    @property
    def weighted(self) -> Mapping[str, tuple[float, Literal["none", "group", "batch"]]]:
        """Weight and scale of each term, by name."""
        return {name: (term.weight, term.normalise) for name, term in self.terms.items()}

    def of_terms(self) -> Mapping[str, Measure]:
        """What is measured, by config section."""
        return {f"reward.terms.{name}": term for name, term in self.terms.items()}
