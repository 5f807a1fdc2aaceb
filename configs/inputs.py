"""What goes into a run: models, languages, prompts, anchors."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import LanguageCode, PathText, Section
from configs.chat import TemplateText
from configs.frames import Frame, System
from configs.model_config import AUTO, stored_dtype
from configs.plugins import PLUGIN_PATTERN

MIX_LANGUAGES = 5  # of the mixture ML-5

# Forms of rows, see `rollout/formats/`.
PromptForm = Literal["auto", "plain", "messages", "alpaca", "aya", "arena-hard", "language-confusion"]
PreferenceForm = Literal["auto", "plain", "helpsteer3", "arena", "ultrafeedback", "orca", "reward-bench"]


class RunConfig(Section):
    """What the run is called and where its results land."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder name below `dir`.")
    dir: Path = Field(Path("runs"), description="Where run folders are created.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds sampling, shuffling and the learner.")
    min_free_disk_gb: float = Field(
        0.5, ge=0, description="Refuse to start, or to write a checkpoint, with less than this much disk left, GiB."
    )
    trackers: list[Annotated[str, Field(pattern=PLUGIN_PATTERN)]] = Field(
        default_factory=list,
        max_length=20,
        description="What gets each metrics row: `wandb` (Weights & Biases, with the extra `isogloss[wandb]`), and "
        "functions of your own as `package.module:function` or entry points of `isogloss.trackers`, called with the "
        "row (a dict) and the run's folder.",
    )
    plugins: dict[str, str] = Field(
        default_factory=dict,
        description="SHA-256 of the source of each function of your own (docs/extending.md), by the field that names "
        "it. Filled in at the start: a run does not continue with another one.",
    )
    inputs: dict[str, str] = Field(
        default_factory=dict,
        description="Checksum of what each file or model folder held that the run reads, by the field that names it. "
        "Filled in at the start: a run does not continue over other contents.",
    )


class ModelConfig(Section):
    """The starting policy and the reference that the implicit reward is measured against."""

    policy: Path = Field(..., description="Hugging Face folder of the starting policy (with a chat template).")
    reference: Path | None = Field(
        None,
        description="Hugging Face folder of the reward reference: the model the policy was aligned from. "
        "Needed by `reward.kind: implicit`.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Weights and arithmetic, all actors: `auto` is what `policy` is stored in (`bfloat16`, or "
        "`float32` for all else), kept in the run's `config.yaml`. Master weights, losses and sums of "
        "log-probabilities are float32 either way.",
    )
    max_length: int = Field(512, ge=8, description="Longest prompt plus completion, in tokens.")
    add_bos: bool = Field(
        False,
        description="Put the tokenizer's BOS in front when the chat template does not. Exactly one BOS is used "
        "in sampling, scoring and training alike.",
    )
    chat_template: TemplateText | None = Field(
        None,
        description="A chat template in place of the model's: a file, or the template itself. Kept as text in the "
        "run's `config.yaml`, and written into its checkpoints.",
    )
    chat_template_kwargs: dict[str, object] = Field(
        default_factory=dict,
        description="Values of variables of the chat template, such as `{enable_thinking: false}`.",
    )
    template_date: datetime.date | None = Field(
        None,
        description="The date that chat templates are told which ask for it, as 2026-11-26. By default that of the "
        "run's first start, kept in the run's `config.yaml`.",
    )

    @model_validator(mode="after")
    def _resolve_dtype(self) -> ModelConfig:
        """Here, so that everybody who is given the config sees the same; a folder that is elsewhere leaves ``auto``."""
        if self.dtype == AUTO:
            # Not by assignment, after which the field would count as given.
            object.__setattr__(self, "dtype", stored_dtype(self.policy) or AUTO)
        return self


class PromptsConfig(Section):
    """Parallel prompts: a file a language, or one file with a column that says the language; joined by id."""

    train: PathText | None = Field(
        None,
        description="Path with `{lang}`, e.g. `worlds/default/prompts/train/{lang}.jsonl`, or a file or folder whose "
        "rows say their language: `.jsonl`, `.json`, `.csv`, `.tsv` (each also with `.gz`), `.parquet`, or a folder "
        "saved by `datasets`. Needed unless `offline.path` is set.",
    )
    heldout: PathText | None = Field(None, description="Same form; evaluated before and after, never trained on.")
    format: PromptForm = Field(
        "auto",
        description="Form of the rows. `auto` finds it from the columns, unless a field below is named: then, and "
        "where no other fits, it is `plain`. A dry run shows it with three rows.",
    )
    id_field: str = Field("id", description="Field that joins the languages.")
    text_field: str = Field(
        "prompt", description="Field that holds the instruction, or the messages up to a user's turn."
    )
    system_field: str = Field(
        "system", description="Field with a system message, which rows may have; it becomes the chat's first turn."
    )
    frame: Frame | None = Field(
        None,
        description="Words around each prompt, train and held-out: a text with `{prompt}`, and `{language}` where the "
        "English name of its language goes; or such a text by language, where those that are not named have none. The "
        "policy is asked, rewarded and trained with it.",
    )
    system: System | None = Field(
        None,
        description="A system turn for prompts that have none; a text (`{language}` as above), or one by language.",
    )
    language_field: str = Field(
        "language",
        description="Field with the language where the path has no `{lang}`: any tag or English name. Rows of "
        "languages that are not in `languages.codes` are left out and counted.",
    )
    incomplete: Literal["refuse", "leave_out"] = Field(
        "refuse",
        description="What becomes of ids that some language lacks: an error, or left out of every language and "
        "counted.",
    )
    answer_field: str | None = Field("answer", description="Field with the gold answer, where there is one.")
    cluster_field: str | None = Field(
        "value",
        description="Field that says which prompts are right or wrong together: intervals of greedy accuracy draw "
        "whole clusters. Rows without it are clusters of their own.",
    )
    group_field: str | None = Field(
        "affected", description="Field by whose values greedy accuracy is also shown, where rows have it."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first N train prompts.")
    skip_longer_than: int | None = Field(
        None,
        ge=1,
        description="Leave out ids whose prompt has more tokens than this in any language; how many is shown. "
        "By default a prompt that does not fit is an error.",
    )
    heldout_limit: int | None = Field(None, ge=1, description="Use only the first N held-out prompts.")


class QuotaConfig(Section):
    """How many pairs each language gets a round. Prompts are assigned to languages before anything is sampled."""

    pairs_per_round: int | dict[LanguageCode, Annotated[int, Field(ge=1, le=10_000_000)]] = Field(
        ..., description="Pairs of a round, in all or by language; groups where the objective takes those."
    )
    balance: Literal["equal", "shares"] = Field(
        "equal",
        description="How a number for all is divided: evenly over languages with a share, or by `languages.shares`.",
    )
    assignment: Literal["parallel", "disjoint"] = Field(
        "parallel",
        description="`parallel`: all languages answer the same prompts. `disjoint`: a prompt is used in one language "
        "of a round.",
    )
    refill: int = Field(
        0,
        ge=0,
        le=100,
        description="How often languages that are short of their pairs after gates and mining get further prompts.",
    )
    oversample: float = Field(
        1.0, ge=1, le=100, description="Prompts assigned at first for each that the pairs would need without losses."
    )

    @model_validator(mode="after")
    def _positive(self) -> QuotaConfig:
        number = self.pairs_per_round
        if isinstance(number, int) and not 1 <= number <= 100_000_000:
            raise ValueError(f"pairs_per_round: {number} is no number of pairs; from 1 on")
        if isinstance(number, dict) and self.balance == "shares":
            raise ValueError("balance: shares divides a number for all, and pairs_per_round names each; remove it")
        return self


class LanguagesConfig(Section):
    """Which languages take part, and with which share."""

    dominant: LanguageCode = Field("en", description="The stronger language that teaches the others.")
    codes: list[LanguageCode] = Field(
        default_factory=list,
        max_length=1000,
        description="All languages, BCP-47. Needed unless `offline.path` is set; there, if given, a pair of another "
        "language is an error.",
    )
    names: dict[LanguageCode, str] = Field(
        default_factory=dict, description="English names used in prompts; known codes have a default."
    )
    shares: dict[LanguageCode, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="Share of a language's mined pairs that is trained on, 0 to 1; unnamed languages have 1. "
        "0 also skips sampling where no other language needs it.",
    )
    mix: Literal["EN-1", "ML-5", "ML-all"] | None = Field(
        None,
        description="Shares by name, after the mixtures of Dang et al. (arXiv 2407.02552), which hold the number of "
        "pairs fixed: `EN-1` trains on the dominant language alone, `ML-5` on a fifth of the pairs of the dominant "
        "one and of "
        "the first four others in `codes`, `ML-all` on 1/n of the pairs of all n: each language answers its part of "
        "the round's prompts, so as much is sampled as is used. Instead of `shares`.",
    )
    quota: QuotaConfig | None = Field(
        None,
        description="Pairs a round by language. `rollout.prompts_per_round` is then not used, and prompts need not "
        "exist in every language.",
    )

    @model_validator(mode="after")
    def _codes_agree(self) -> LanguagesConfig:
        if not self.codes:
            return self  # only offline, which the whole config checks
        if len(set(self.codes)) != len(self.codes):
            raise ValueError("codes: a language is named twice; name each once")
        if self.dominant not in self.codes:
            raise ValueError(f"dominant: '{self.dominant}' is not in codes; add it or choose another")
        for field, mapping in (("names", self.names), ("shares", self.shares)):
            for code in mapping:
                if code not in self.codes:
                    raise ValueError(f"{field}.{code}: not in codes; add it there or remove it here")
        if self.mix is not None and self.shares:
            raise ValueError(f"mix: {self.mix} sets the shares that `shares` sets too; remove one of them")
        if self.mix == "ML-5" and len(self.codes) < MIX_LANGUAGES:
            raise ValueError(f"mix: ML-5 needs 5 languages, codes has {len(self.codes)}; add some, or use ML-all")
        if self.quota is not None and isinstance(self.quota.pairs_per_round, dict):
            for code in self.quota.pairs_per_round:
                if code not in self.codes:
                    raise ValueError(f"quota.pairs_per_round.{code}: not in codes; add it there or remove it here")
                if self.share(code) == 0:
                    raise ValueError(f"quota.pairs_per_round.{code}: its share is 0; remove one of them")
        if all(self.share(code) == 0 for code in self.codes):
            raise ValueError("shares: every language has share 0; leave at least one above 0")
        return self

    def share(self, code: str) -> float:
        """Share of the mined pairs of ``code`` that is trained on."""
        if self.mix is None:
            return self.shares.get(code, 1.0)
        order = [self.dominant, *self.others]
        chosen = order[: {"EN-1": 1, "ML-5": MIX_LANGUAGES}.get(self.mix)]
        return 1 / len(chosen) if code in chosen else 0.0

    @property
    def others(self) -> list[str]:
        """All languages but the dominant one."""
        return [code for code in self.codes if code != self.dominant]


class AnchorConfig(Section):
    """Preference pairs replayed beside the new ones, so that the dominant language does not sink."""

    path: Path | None = Field(None, description="JSON lines: id, language, prompt, chosen, rejected.")
    pairs_per_round: int = Field(0, ge=0, description="How many are drawn (seeded, without replacement) a round.")


class OfflineConfig(Section):
    """Training on a preference file instead of the policy's own samples: no rollouts, no rewards, only the learner.

    A row has `prompt`, `chosen` and `rejected` as texts or as chat messages; `chosen` and `rejected` may also hold the
    whole chat, with or without `prompt`. Rounds are consecutive slices of the file, `schedule.rounds` does not count.
    """

    path: PathText | None = Field(
        None,
        description="Preference file (`.jsonl`, `.json`, `.csv`, `.tsv`, each also with `.gz`, or `.parquet`), a "
        "folder of such files or one saved by `datasets`, or a path with `{lang}`. Setting it makes the run an offline "
        "one.",
    )
    format: PreferenceForm = Field(
        "auto",
        description="Form of the rows. `auto` finds it from the columns, unless a field below is named: then, and "
        "where no other fits, it is `plain`. Of the other forms, rows without a preference, in languages that are not "
        "in `languages.codes`, or that cannot be read are left out and counted; a dry run shows them with three rows.",
    )
    id_field: str = Field(
        "id", description="Field with an id, unique within a language; without it a row is named by file and line."
    )
    prompt_field: str = Field("prompt", description="Field with the user's text, or the messages up to a user's turn.")
    chosen_field: str = Field("chosen", description="Field with the preferred answer.")
    rejected_field: str = Field("rejected", description="Field with the other answer.")
    system_field: str = Field(
        "system", description="Field with a system message, which rows may have; it becomes the chat's first turn."
    )
    language_field: str = Field(
        "language",
        description="Field with the language, for metrics. Rows without it have that of `{lang}` in the file's name, "
        "else `languages.dominant`.",
    )
    pairs_per_round: int | None = Field(
        None,
        ge=1,
        description="Rows of a round, in file order: a checkpoint is written after each. None trains on everything in "
        "one round. Epochs (`learner.epochs`) are passes over a round.",
    )
    limit: int | None = Field(None, ge=1, description="Use only the first N rows.")
    skip_longer: bool = Field(
        False,
        description="Leave out pairs that are longer than `model.max_length`; how many is shown. By default they are "
        "an error.",
    )
    moving_reference: bool = Field(
        False,
        description="Allow `learner.reference: previous_round` with several rounds, where each slice is measured "
        "against the policy that the slice before left.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> OfflineConfig:
        if self.moving_reference and self.pairs_per_round is None:
            raise ValueError("moving_reference: there is one round only; set pairs_per_round, or remove it")
        return self
