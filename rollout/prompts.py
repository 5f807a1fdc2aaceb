"""Parallel prompts: one JSON-lines file a language, joined by id, never by line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import UserError
from configs.schema import Config, LanguagesConfig
from rollout.jsonl import id_of, read_rows, text_of
from rollout.records import Prompt
from rollout.world_folder import check_world

_SHOWN = 5


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one split, complete in every language.

    Attributes:
        ids: In file order of the dominant language.
        languages: All codes, the dominant one first.
        rows: (id, language) -> prompt.
        lines: (id, language) -> line in the language's file, from 1.
        paths: Language -> file.
    """

    ids: tuple[str, ...]
    languages: tuple[str, ...]
    rows: dict[tuple[str, str], Prompt]
    lines: dict[tuple[str, str], int]
    paths: dict[str, Path]

    def get(self, prompt_id: str, language: str) -> Prompt:
        """The prompt ``prompt_id`` in ``language``."""
        return self.rows[prompt_id, language]

    def location(self, prompt_id: str, language: str) -> str:
        """``file:line`` of a prompt, for messages."""
        return f"{self.paths[language]}:{self.lines[prompt_id, language]}"

    def only(self, ids: Sequence[str]) -> PromptSet:
        """The same prompts with no other ids than these, in their order."""
        kept = set(ids)
        return replace(
            self,
            ids=tuple(ids),
            rows={key: row for key, row in self.rows.items() if key[0] in kept},
            lines={key: line for key, line in self.lines.items() if key[0] in kept},
        )

    @property
    def has_answers(self) -> bool:
        """Whether the prompts carry gold answers (all do or none does)."""
        return self.rows[self.ids[0], self.languages[0]].answer is not None

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
            languages = LanguagesConfig(dominant=languages.dominant, codes=config.evaluated)
        loaded = cls.load(
            pattern,
            languages,
            prompts.id_field,
            prompts.text_field,
            prompts.answer_field,
            limit,
            split,
            prompts.cluster_field,
            prompts.group_field,
        )
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
        id_field: str = "id",
        text_field: str = "prompt",
        answer_field: str | None = "answer",
        limit: int | None = None,
        split: str = "train",
        cluster_field: str | None = None,
        group_field: str | None = None,
    ) -> PromptSet:
        """Read and join the files of all languages.

        Args:
            pattern: Path with ``{lang}``.
            languages: The run's languages; the dominant one gives the order.
            id_field: Field that joins the languages; strings or integers (``1`` joins ``"1"``).
            text_field: Field with the instruction.
            answer_field: Field with the gold answer; absent from every row of every file means no answers.
            limit: Keep the first so many ids, after joining.
            split: For messages only.
            cluster_field: Field with the prompt's cluster; optional in each row.
            group_field: Field with the prompt's group; optional in each row.

        Raises:
            UserError: Any bad row, file or mismatch, with file:line and the cure; nothing is skipped.
        """
        check_world(pattern)
        codes = (languages.dominant, *languages.others)
        fields = _Fields(id_field, text_field, answer_field, cluster_field, group_field)
        files = {code: _read_file(Path(pattern.replace("{lang}", code)), code, fields, split) for code in codes}
        for code in codes[1:]:
            _same_ids(files[codes[0]], files[code], languages.dominant, code)
        _all_or_no_answers(list(files.values()), answer_field)
        ids = tuple(files[codes[0]].prompts)[:limit]
        return cls(
            ids=ids,
            languages=codes,
            rows={(i, code): files[code].prompts[i] for code in codes for i in ids},
            lines={(i, code): files[code].lines[i] for code in codes for i in ids},
            paths={code: files[code].path for code in codes},
        )


@dataclass(frozen=True)
class _Fields:
    id: str
    text: str
    answer: str | None
    cluster: str | None
    group: str | None


@dataclass(frozen=True)
class _File:
    path: Path
    prompts: dict[str, Prompt]
    lines: dict[str, int]


def _read_file(path: Path, code: str, fields: _Fields, split: str) -> _File:
    prompts: dict[str, Prompt] = {}
    lines: dict[str, int] = {}
    for number, row in read_rows(path, f"{split} prompts of language '{code}'"):
        where = f"{path}:{number}"
        key = id_of(row, fields.id, where, setting="prompts.id_field")
        if key in lines:
            raise UserError(f"{where}: id '{key}' was already used in line {lines[key]}; give each row its own id")
        text = text_of(row, fields.text, where, setting="prompts.text_field")
        answer = None
        if fields.answer is not None and fields.answer in row:
            value = row[fields.answer]
            if isinstance(value, int) and not isinstance(value, bool):
                answer = str(value)
            else:
                answer = text_of(row, fields.answer, where, setting="prompts.answer_field")
        marks = (
            None if field is None or field not in row else text_of(row, field, where, setting=f"prompts.{name}")
            for name, field in (("cluster_field", fields.cluster), ("group_field", fields.group))
        )
        prompts[key] = Prompt(key, code, text, answer, *marks)
        lines[key] = number
    return _File(path, prompts, lines)


def _same_ids(first: _File, other: _File, dominant: str, code: str) -> None:
    missing = [i for i in first.prompts if i not in other.prompts]
    extra = [i for i in other.prompts if i not in first.prompts]
    if missing:
        where = f"{first.path}:{first.lines[missing[0]]}"
        raise UserError(
            f"{other.path}: {len(missing)} id(s) of language '{dominant}' are missing in language '{code}': "
            f"{_some(missing)} (first at {where}); add them or remove them from every language"
        )
    if extra:
        raise UserError(
            f"{other.path}:{other.lines[extra[0]]}: {len(extra)} id(s) of language '{code}' are missing in "
            f"{first.path} (language '{dominant}'): {_some(extra)}; add them there or remove them here"
        )


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(f"'{i}'" for i in ids[:_SHOWN])
    return shown if len(ids) <= _SHOWN else f"{shown} and {len(ids) - _SHOWN} more"


def _all_or_no_answers(files: Sequence[_File], answer_field: str | None) -> None:
    absent = [(f, i) for f in files for i, prompt in f.prompts.items() if prompt.answer is None]
    total = sum(len(f.prompts) for f in files)
    if absent and len(absent) < total:
        file, key = absent[0]
        raise UserError(
            f"{file.path}:{file.lines[key]}: field '{answer_field}' is missing here and in "
            f"{len(absent) - 1} other "
            f"rows, while {total - len(absent)} rows have it; add it everywhere or set "
            "prompts.answer_field: null"
        )


def check_lengths(prompts: PromptSet, count_tokens: Callable[[str], int], max_length: int, max_new_tokens: int) -> None:
    """Refuse prompts that leave no room for their answer.

    Args:
        prompts: All prompts of a split.
        count_tokens: Tokens of a user turn, chat template and generation prompt included.
        max_length: ``model.max_length``, in tokens.
        max_new_tokens: Tokens that an answer may take.

    Raises:
        UserError: Names the first offender's file:line, its length and how many there are.
    """
    room = max_length - max_new_tokens
    offenders: list[tuple[str, int]] = []
    for code in prompts.languages:
        for key in prompts.ids:
            length = count_tokens(prompts.get(key, code).text)
            if length > room:
                offenders.append((prompts.location(key, code), length))
    if offenders:
        where, length = offenders[0]
        longest = max(n for _, n in offenders)
        raise UserError(
            f"{where}: the prompt has {length} tokens, but model.max_length {max_length} less max_new_tokens "
            f"{max_new_tokens} leaves {room}; {len(offenders)} prompt(s) are too long, the longest has "
            f"{longest}; set "
            f"model.max_length to at least {longest + max_new_tokens}, lower max_new_tokens, or shorten them"
        )
