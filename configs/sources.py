"""Named sources of candidates: who answers a prompt beside, or instead of, the policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import LanguageCode, PathText, Section
from configs.plugins import PLUGIN_PATTERN

_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]*$"  # no `@` and no `/`: names stand in selectors and in ids


class SourceSection(Section):
    """What every source has."""

    name: str = Field(..., pattern=_NAME, max_length=60, description="What the miner and the journal call it.")
    languages: list[LanguageCode] = Field(
        default_factory=list, description="Languages of its answers; all that the run needs where none are named."
    )
    scored: bool = Field(True, description="Whether its answers get rewards, where the run scores.")


class PolicySource(SourceSection):
    """The policy, with `rollout`'s sampling."""

    kind: Literal["policy"]
    name: str = Field("policy", pattern=_NAME, max_length=60, description="What the miner and the journal call it.")
    samples: int | None = Field(
        None, ge=1, description="Answers to a prompt and language; by default `rollout.samples_per_prompt`."
    )


class EndpointSource(SourceSection):
    """A server of `endpoints`."""

    kind: Literal["endpoint"]
    endpoint: str = Field(..., description="Its name in `endpoints`.")
    samples: int = Field(1, ge=1, description="Answers to a prompt and language.")
    template: str = Field(
        "{prompt}", description="The user turn; `{prompt}` is the prompt, `{language}` its language's English name."
    )
    system: str | None = Field(None, description="A system message in front of it.")
    min_answered: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of a round's questions in a language that must be answered; with fewer the run stops, and "
        "can be resumed. Those without an answer are counted.",
    )

    @model_validator(mode="after")
    def _asks(self) -> EndpointSource:
        if "{prompt}" not in self.template:
            raise ValueError("template: has no {prompt}; put it where the prompt goes")
        return self


class TranslationSource(SourceSection):
    """Answers of another source, translated. An answer that passed no gate is not translated."""

    kind: Literal["translation"]
    of: str = Field(..., description="Name of the source whose answers are translated.")
    by: str = Field(
        "policy",
        description="`policy`, which translates greedily (LIDR), `command`, or the name of a server in `endpoints`.",
    )
    command: list[str] = Field(
        default_factory=list,
        description="With `by: command`: a program and its arguments. It reads JSON lines `{id, text, from, to}` to "
        "the end and writes `{id, text}` for each, in any order.",
    )
    command_timeout_s: float = Field(
        600, gt=0, description="One call of the command, for the answers of `rollout.chunk_prompts` prompts."
    )
    template: str = Field(
        "Translate the text between the tags into {language}. Answer with the translation alone.\n"
        "<text>\n{text}\n</text>",
        description="The user turn that a server gets; the policy has its own (`rollout/templates.py`).",
    )
    origin: LanguageCode | None = Field(
        None, description="Language that is translated from; by default `languages.dominant`."
    )
    both_directions: bool = Field(
        False, description="Also translate the answers in all other languages into `origin`, so that it gets pairs too."
    )
    scored: bool = Field(True, description="Whether the translations get rewards, where the run scores.")
    min_answered: float = Field(
        0.9, ge=0, le=1, description="As for `endpoint`, of the translations that were asked for."
    )

    @model_validator(mode="after")
    def _named(self) -> TranslationSource:
        if "{text}" not in self.template:
            raise ValueError("template: has no {text}; put it where the text goes")
        if (self.by == "command") != bool(self.command):
            raise ValueError("command: goes together with by: command; set both or neither")
        return self


class FileFields(Section):
    """Fields of a row of ready-made answers."""

    id: str = Field("id", description="Field with the prompt's id.")
    text: str = Field("response", description="Field with the answer.")
    language: str = Field("language", description="Field with the language, needed where the path has no `{lang}`.")
    model: str = Field("model", description="Field that says which model gave the answer; rows may have it.")


class FileSource(SourceSection):
    """Answers that are there already, joined by the prompt's id. Several rows of an id are several samples."""

    kind: Literal["file"]
    path: PathText = Field(..., description="JSON lines or parquet, with `{lang}` for one file a language.")
    fields: FileFields = FileFields()
    samples: int = Field(1, ge=1, description="Rows of an id and language that are used, the first ones.")


class CustomSource(SourceSection):
    """A function of your own (docs/extending.md)."""

    kind: Literal["custom"]
    function: str = Field(
        ...,
        pattern=PLUGIN_PATTERN,
        description="The function, as `package.module:function` or the name of an entry point of `isogloss.sources`.",
    )
    options: dict[str, object] = Field(default_factory=dict, description="Keyword arguments that it is called with.")
    samples: int = Field(1, ge=1, description="Answers to a prompt and language.")
    timeout_s: float = Field(
        60.0, gt=0, description="Deadline of one call, for the prompts of a chunk (`rollout.chunk_prompts`)."
    )
    min_answered: float = Field(0.9, ge=0, le=1, description="As for `endpoint`, of the answers that were asked for.")


SourceConfig = Annotated[
    PolicySource | EndpointSource | TranslationSource | FileSource | CustomSource, Field(discriminator="kind")
]
