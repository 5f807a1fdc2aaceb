"""Parallel prompts, joined by id, never by line: a file a language, or one whose rows say their language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from configs.errors import UserError
from configs.schema import Config, LanguagesConfig, PromptsConfig
from rollout.formats.left_out import LeftOut
from rollout.frames import framed
from rollout.prompt_files import read_prompts
from rollout.records import Prompt, Turns
from rollout.world_folder import check_world

_SHOWN = 5


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one split, complete in every language unless the run has a quota.

    Attributes:
        ids: In file order of the dominant language, then those that it lacks.
        languages: All codes, the dominant one first.
        rows: (id, language) -> prompt.
        places: (id, language) -> file:line.
        forms: Names of the forms of the files, see ``rollout/formats/``.
        left_out: Rows that were left out, and ids that some language lacks.
    """

    ids: tuple[str, ...]
    languages: tuple[str, ...]
    rows: dict[tuple[str, str], Prompt]
    places: dict[tuple[str, str], str]
    forms: tuple[str, ...] = ("plain",)
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)

    def get(self, prompt_id: str, language: str) -> Prompt:
        """The prompt ``prompt_id`` in ``language``."""
        return self.rows[prompt_id, language]

    def location(self, prompt_id: str, language: str) -> str:
        """``file:line`` of a prompt, for messages."""
        return self.places[prompt_id, language]

    def only(self, ids: Sequence[str]) -> PromptSet:
        """The same prompts with no other ids than these, in their order."""
        kept = set(ids)
        return replace(
            self,
            ids=tuple(ids),
            rows={key: row for key, row in self.rows.items() if key[0] in kept},
            places={key: place for key, place in self.places.items() if key[0] in kept},
        )

    @property
    def has_answers(self) -> bool:
        """Whether the prompts carry gold answers (all do or none does)."""
        return next(iter(self.rows.values())).answer is not None

    @classmethod
    def from_config(cls, config: Config, split: str = "train") -> PromptSet:
        """Load the split ``train`` or ``heldout`` of a run.

        Raises:
            UserError: As :meth:`load`; or the split is not configured, or the verifier reward has no answers.
        """
        prompts = config.prompts
        pattern, limit = (
            (prompts.train, prompts.limit) if split == "train" else (prompts.heldout, prompts.heldout_limit)
        )
        if pattern is None:
            raise UserError("prompts.heldout: no held-out prompts are named; add a path with {lang}")
        languages = config.languages
        if split == "heldout" and config.evaluation.languages:
            languages = LanguagesConfig(dominant=languages.dominant, codes=config.evaluated, names=languages.names)
        partial = languages.quota is not None and split == "train" and prompts.incomplete != "leave_out"
        loaded = cls.load(pattern, languages, prompts, limit=limit, split=split, partial=partial)
        if split == "train" and config.reward.verified and not loaded.has_answers:
            raise UserError(
                f"{pattern}: no row has field '{prompts.answer_field}', which reward.kind verifier needs; "
                "add the gold answers or set prompts.answer_field"
            )
        return loaded

    @classmethod
    def load(
        cls,
        pattern: str,
        languages: LanguagesConfig,
        fields: PromptsConfig | None = None,
        *,
        limit: int | None = None,
        split: str = "train",
        partial: bool = False,
    ) -> PromptSet:
        """Read and join the prompts of all languages.

        Args:
            pattern: Path, with ``{lang}`` where there is a file or folder a language.
            languages: The run's languages; the dominant one gives the order.
            fields: Form and names of fields. ``id_field`` joins the languages; strings or integers (``1`` joins
                ``"1"``). An ``answer_field`` that no row of any file has means no answers.
            limit: Keep the first N ids, after joining.
            split: For messages only.
            partial: Whether ids may be missing in some languages; those of the dominant one then come first.

        Raises:
            UserError: A bad row, file or mismatch, with file:line and the cure; nothing is skipped but what
                ``fields`` lets be left out.
        """
        check_world(pattern)
        fields = fields or PromptsConfig()
        codes = (languages.dominant, *languages.others)
        found = read_prompts(pattern, codes, fields, split)
        first = codes[0]
        left_out = found.left_out
        ids = list(found.by_language[first])
        if partial:
            ids = list(dict.fromkeys(key for code in codes for key in found.by_language[code]))
        elif fields.incomplete == "leave_out":
            for code in codes:
                for key, where in found.places_of(code).items():
                    if lacking := [other for other in codes if key not in found.by_language[other]]:
                        left_out.add(f"its id is missing in {', '.join(lacking)}", where)
            ids = [key for key in ids if all(key in found.by_language[code] for code in codes)]
            if not ids:
                raise UserError(f"{pattern}: no id is there in all of {', '.join(codes)}; give the same ids to each")
        else:
            for code in codes[1:]:
                _same_ids(found.places_of(first), found.places_of(code), first, code, found.names)
        kept = ids[:limit]
        there = [(key, code) for code in codes for key in ids if key in found.by_language[code]]
        rows = {(key, code): framed(found.by_language[code][key][0], fields, languages.names) for key, code in there}
        places = {(key, code): found.by_language[code][key][1] for key, code in there}
        _all_or_no_answers(rows, places, fields.answer_field)
        whole = cls(tuple(ids), codes, rows, places, found.forms, left_out)
        return whole.only(kept)


def _same_ids(first: dict[str, str], other: dict[str, str], dominant: str, code: str, names: dict[str, str]) -> None:
    """Refuse two languages (id -> file:line) whose ids differ."""
    cure = "or set prompts.incomplete: leave_out"
    missing = [key for key in first if key not in other]
    if missing:
        raise UserError(
            f"{names[code]}: {len(missing)} id(s) of language '{dominant}' are missing in language '{code}': "
            f"{_some(missing)} (first at {first[missing[0]]}); add them or remove them from every language, {cure}"
        )
    extra = [key for key in other if key not in first]
    if extra:
        raise UserError(
            f"{other[extra[0]]}: {len(extra)} id(s) of language '{code}' are missing in "
            f"{names[dominant]} (language '{dominant}'): {_some(extra)}; add them there or remove them here, {cure}"
        )


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(f"'{i}'" for i in ids[:_SHOWN])
    return shown if len(ids) <= _SHOWN else f"{shown} and {len(ids) - _SHOWN} more"


def _all_or_no_answers(
    rows: dict[tuple[str, str], Prompt], places: dict[tuple[str, str], str], answer_field: str | None
) -> None:
    absent = [key for key, prompt in rows.items() if prompt.answer is None]
    if absent and len(absent) < len(rows):
        raise UserError(
            f"{places[absent[0]]}: field '{answer_field}' is missing here and in {len(absent) - 1} other "
            f"rows, while {len(rows) - len(absent)} rows have it; add it everywhere or set "
            "prompts.answer_field: null"
        )


def check_lengths(
    prompts: PromptSet, count_tokens: Callable[[Turns], int], max_length: int, max_new_tokens: Callable[[str], int]
) -> None:
    """Refuse prompts that leave no room for their answer.

    Args:
        prompts: All prompts of a split.
        count_tokens: Tokens of a prompt's turns, chat template and generation prompt included.
        max_length: ``model.max_length``, in tokens.
        max_new_tokens: Tokens that an answer in a language may take.

    Raises:
        UserError: Names the first offender's file:line, its length and how many there are.
    """
    offenders: list[tuple[str, int, int]] = []
    for (key, code), prompt in prompts.rows.items():
        length, answer = count_tokens(prompt.turns), max_new_tokens(code)
        if length + answer > max_length:
            offenders.append((prompts.location(key, code), length, answer))
    if offenders:
        where, length, answer = offenders[0]
        needed = max(length + answer for _, length, answer in offenders)
        raise UserError(
            f"{where}: the prompt has {length} tokens, but model.max_length {max_length} less max_new_tokens "
            f"{answer} leaves {max_length - answer}; {len(offenders)} prompt(s) are too long, the longest has "
            f"{max(length for _, length, _ in offenders)}; set "
            f"model.max_length to at least {needed}, lower max_new_tokens, or shorten them"
        )
