"""How many rounds, evaluated how, on which cluster."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from configs.base import LanguageCode, Section
from configs.judge import JudgeConfig

# How long learner ranks wait for one another in a collective, seconds: longer than any step of a sane run, since a rank
# that died makes the others wait this long at most.
COLLECTIVE_TIMEOUT_S = 900


class ScheduleConfig(Section):
    """How many rounds, and how far sampling may run behind learning."""

    rounds: int = Field(2, ge=0, description="Rounds to run; 0 only evaluates.")
    sync_every: int = Field(1, ge=1, description="Publish weights to the rollouts every N rounds.")
    max_staleness: int = Field(
        0,
        ge=0,
        description="Rounds that a sample's weights may be older than the learner's. 0 is strictly on-policy; "
        "1 lets the next round's sampling overlap training.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> ScheduleConfig:
        if self.max_staleness < self.sync_every - 1:
            raise ValueError(
                f"max_staleness: {self.max_staleness} cannot hold with sync_every {self.sync_every}; "
                f"set max_staleness to at least {self.sync_every - 1} or sync_every to {self.max_staleness + 1}"
            )
        return self


class EvaluationConfig(Section):
    """Accuracy and language fidelity on the held-out prompts, before and after."""

    samples_per_prompt: int = Field(8, ge=1, description="Samples a prompt for the sampled accuracy.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the sampled accuracy.")
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=list,
        description="Further temperatures at which as many answers are sampled: a gain that a lower temperature gives "
        "without training is no gain (`best_over_temperature` in `summary.json`).",
    )
    every: int = Field(0, ge=0, description="Also evaluate after every N rounds; 0 only start and end.")
    languages: list[LanguageCode] = Field(
        default_factory=list,
        description="Further languages of `prompts.heldout` that are evaluated but neither sampled nor trained on: "
        "what training does to languages that it never sees.",
    )
    judge: JudgeConfig | None = Field(
        None,
        description="A judge (fields as in `judge`) that compares greedy answers with those of the start, in both "
        "orders: win rates by language, with intervals. Its verdicts are kept in `.cache/judge.sqlite` of `run.dir`, "
        "as those of `isogloss eval`, unless `cache` names another file. Better not the judge that gives the rewards.",
    )
    bootstrap_samples: int = Field(2000, ge=100, le=1_000_000, description="Resamples of the paired bootstrap.")
    markers: dict[LanguageCode, list[str]] = Field(
        default_factory=dict,
        description="Regular expressions by language that show a fault of form, such as what a translator leaves in "
        "its texts. The share of sampled answers in which one is found is in metrics and summary (`marked`).",
    )

    @field_validator("markers")
    @classmethod
    def _patterns(cls, markers: dict[str, list[str]]) -> dict[str, list[str]]:
        for code, patterns in markers.items():
            if not patterns:
                raise ValueError(f"{code} has no pattern; add one, or remove the language")
            for place, pattern in enumerate(patterns):
                try:
                    found = re.compile(pattern).search("")
                except (re.error, OverflowError, RecursionError) as error:
                    raise ValueError(f"{code}.{place} is no regular expression ({error}); correct it") from None
                if found is not None:
                    raise ValueError(f"{code}.{place} is found in an empty answer; name what must be there")
        return markers

    @model_validator(mode="after")
    def _once(self) -> EvaluationConfig:
        if len(set(self.languages)) != len(self.languages):
            raise ValueError("languages: a language is named twice; name each once")
        if len({self.temperature, *self.temperatures}) != 1 + len(self.temperatures):
            raise ValueError("temperatures: one is named twice, or is `temperature`; name each once")
        return self


class ClusterConfig(Section):
    """Ray: which cluster, and how long a remote call may take before it counts as failed."""

    address: str | None = Field(
        None, description="Address of a running cluster (`auto` inside a job); none starts a local one."
    )
    num_cpus: float | None = Field(
        None, gt=0, description="CPUs of the local cluster; default is what the machine has."
    )
    start_timeout_s: float = Field(300, gt=0, description="Start of any actor or of the learner group.")
    call_timeout_s: float = Field(600, gt=0, description="One scoring call, or the wait for the next chunk of answers.")
    train_timeout_s: float = Field(3600, gt=0, description="Training of one round.")
    sync_timeout_s: float = Field(120, gt=0, description="Weights into every engine.")
    weight_transfer: Literal["objects", "broadcast"] = Field(
        "objects",
        description="How full weights get from the learner to rollout engines, and to reward models that follow the "
        "policy. `objects`: through Ray's object store. `broadcast`: by a collective from the learner's rank 0, over "
        "NCCL where all of these have GPUs and gloo otherwise; if that fails, through the object store after all.",
    )
    colocate: bool | Literal["auto"] = Field(
        "auto",
        description="Let a stage use what the idle ones leave: on CPUs a learner rank then computes with "
        "`learner.threads` of all cores, on GPUs engines sleep and reward models lie in main memory while the learner "
        "works. Needs `schedule.max_staleness` 0, where stages never work at the same time. `auto`: so for a run on "
        "this machine alone that has that and serves nothing meanwhile.",
    )
    max_actor_restarts: int = Field(2, ge=0, description="Restarts of a dead rollout or reward actor.")
