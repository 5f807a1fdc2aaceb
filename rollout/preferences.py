"""Preference files: every row is read and checked before anything starts, and all that is wrong is said at once.

Rows of the plain form must all be good. Those of a form that others publish (``rollout/formats/``) hold ties, other
languages and broken rows, which are left out and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.errors import UserError
from configs.language_codes import code_cure, same_language
from configs.load import validated
from configs.reading import shown
from configs.schema import Config, OfflineConfig
from rollout.formats.chats import messages_of
from rollout.formats.files import RawRow, Row, columns_of, read_table
from rollout.formats.form import Form, choose
from rollout.formats.forms import PREFERENCES
from rollout.formats.left_out import LeftOut
from rollout.formats.places import placed_files
from rollout.jsonl import id_of, text_of
from rollout.languages import language_code
from rollout.records import Message, Pair, Turns, labelled_pair

SHOWN = 10  # problems that a message lists

# Columns that other tools (LLaMA-Factory, Alpaca's form, TRL) put into the prompt.
_UNREAD = ("system", "system_prompt", "system_message", "history", "input", "tools", "images", "videos", "audios")
_DEFAULT = OfflineConfig()
_NAMED = ("id_field", "prompt_field", "chosen_field", "rejected_field", "system_field", "language_field")


@dataclass(frozen=True, slots=True)
class Preference:
    """One row of a preference file. ``where`` is file:line (of a parquet file: file:row), from 1."""

    id: str
    language: str
    prompt: Turns
    chosen: str
    rejected: str
    where: str
    subset: str | None = None  # of a benchmark


@dataclass(frozen=True)
class Reading:
    """What came out of preference files: the rows in order, the forms that were found, and what was left out."""

    rows: list[Preference]
    forms: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)


def refuse(problems: Sequence[str]) -> None:
    """Raise what was found, the first ten with a total; nothing if there is nothing.

    Raises:
        UserError: Lists the problems.
    """
    if problems:
        rest = len(problems) - SHOWN
        more = f"\n  and {rest} more" if rest > 0 else ""
        count = f"{len(problems)} bad row(s) in the preference file; each is named with its cure:\n  "
        raise UserError(count + "\n  ".join(problems[:SHOWN]) + more)


def load_preferences(config: Config) -> list[Preference]:
    """The rows of :func:`read_preferences`."""
    return read_preferences(config).rows


def read_preferences(config: Config) -> Reading:
    """Read ``offline.path``, in the order of the file (of files: by name); at most ``offline.limit`` rows are given.

    Raises:
        UserError: A file is missing, empty or unreadable, all rows were left out, or rows are bad: file:line, field and
            cure of the first ten, and how many there are.
    """
    return read_rows(config.offline, config.languages.codes, config.languages.dominant)


def read_rows(offline: OfflineConfig, codes: Sequence[str], dominant: str) -> Reading:
    """As :func:`read_preferences`.

    Args:
        offline: Path, form and names of fields.
        codes: Languages that a row may have; none are all.
        dominant: The language of rows that do not say theirs.

    Raises:
        UserError: As :func:`read_preferences`.
    """
    problems: list[str] = []
    found: list[Preference] = []
    places: dict[tuple[str, str], str] = {}
    left_out = LeftOut()
    forms: dict[str, None] = {}
    for path, language in placed_files(offline.path or "", "offline.path"):
        rows = read_table(path, "preference pairs")
        form = _form(rows, offline, path)
        forms["plain" if form is None else form.name] = None
        for raw in rows:
            try:
                one = _read(raw, form, offline, codes, language or dominant)
            except UserError as error:
                if form is None:
                    problems.append(str(error))
                else:
                    left_out.refused(error, raw.where)
                continue
            first = places.setdefault((one.language, one.id), one.where)
            if first != one.where:
                problems.append(
                    f"{one.where}: {offline.id_field} '{one.id}' of language '{one.language}' was already used in "
                    f"{first}; give each row its own, or set offline.id_field to a field that is not there"
                )
            found.append(one)
    refuse(problems)
    if not found:
        raise UserError(
            f"offline.path: all {left_out.total} rows of {shown(offline.path)} were left out; correct languages.codes "
            "or offline.format:\n  " + "\n  ".join(left_out.lines())
        )
    return Reading(found[: offline.limit], tuple(forms), left_out)


def read_all(paths: Iterable[Path | str], codes: Sequence[str], dominant: str) -> Reading:
    """The rows of several files or folders, each read as :func:`read_rows` with the usual names of fields.

    Args:
        paths: In the order of their rows.
        codes: Languages that a row may have; none are all.
        dominant: The language of rows that do not say theirs.

    Raises:
        UserError: As :func:`read_preferences`.
    """
    rows: list[Preference] = []
    left_out = LeftOut()
    forms: dict[str, None] = {}
    for path in paths:
        reading = read_rows(validated({"path": str(path)}, OfflineConfig, "--data"), codes, dominant)
        rows += reading.rows
        left_out.merge(reading.left_out)
        forms.update(dict.fromkeys(reading.forms))
    return Reading(rows, tuple(forms), left_out)


def _form(rows: Sequence[RawRow], offline: OfflineConfig, path: Path) -> Form | None:
    wanted = offline.format
    if wanted == "auto" and any(getattr(offline, name) != getattr(_DEFAULT, name) for name in _NAMED):
        wanted = "plain"  # who names fields knows the form
    return choose(PREFERENCES, wanted, columns_of(rows), str(path), "offline.format")


def _read(raw: RawRow, form: Form | None, fields: OfflineConfig, codes: Sequence[str], language: str) -> Preference:
    row = raw.read()
    if form is not None:
        row, fields = form.read(row, raw.where, raw.number), _DEFAULT
    one = _preference(row, raw.where, fields, codes, language)
    place = Path(raw.where).name
    # Public sets have ids, but few have one for each row.
    return one if form is None or one.id == place else replace(one, id=f"{one.id}@{place}")


def _preference(row: Row, where: str, fields: OfflineConfig, codes: Sequence[str], language: str) -> Preference:
    if fields.language_field in row:
        said = text_of(row, fields.language_field, where, setting="offline.language_field").strip()
        code = language_code(said)
        if code is None:
            raise UserError(
                f"{where}: {fields.language_field} '{shown(said, 40)}' is no language code; {code_cure(said)}"
            )
        language = code
    if codes:
        known = same_language(language, codes)
        if known is None:
            raise UserError(
                f"{where}: {fields.language_field} '{language}' is not in languages.codes; add it there or remove the "
                "row"
            )
        language = known
    if fields.id_field in row:
        key = id_of(row, fields.id_field, where, setting="offline.id_field")
    else:
        key = Path(where).name
    prompt, chosen, rejected = _texts(row, where, fields)
    if chosen.strip() == rejected.strip():
        raise UserError(
            f"{where}: {fields.chosen_field} and {fields.rejected_field} are equal; remove the row or correct one"
        )
    subset = row.get("subset")
    return Preference(
        key, language, prompt, chosen, rejected, where, subset if isinstance(subset, str) and subset else None
    )


def _texts(row: dict[str, object], where: str, fields: OfflineConfig) -> tuple[Turns, str, str]:
    """Prompt, chosen and rejected, whichever way the row puts them."""
    answers = [
        _side(row, name, where, setting)
        for name, setting in (
            (fields.chosen_field, "offline.chosen_field"),
            (fields.rejected_field, "offline.rejected_field"),
        )
    ]
    _check_unread(row, where, fields)
    prompt: tuple[Message, ...]
    if fields.prompt_field in row:
        found = _side(row, fields.prompt_field, where, "offline.prompt_field")
        prompt = (Message("user", found),) if isinstance(found, str) else found
        prompt = (*_opening(answers, prompt, where, fields), *prompt)
    else:
        chosen, rejected = answers
        if isinstance(chosen, str) or isinstance(rejected, str):
            raise UserError(
                f"{where}: field '{fields.prompt_field}' is missing (the row has {shown(sorted(row))}); add it, or set "
                f"offline.prompt_field. Only where {fields.chosen_field} and {fields.rejected_field} are whole chats "
                "can it be left out"
            )
        prompt = _common(chosen, rejected)
    prompt = _with_system(row, prompt, where, fields)
    if not prompt or prompt[-1].role != "user":
        ends = (
            f"ends with a turn of '{prompt[-1].role}'" if prompt else "is empty: the chats differ from the first turn"
        )
        raise UserError(f"{where}: field '{fields.prompt_field}' {ends}; it must end with a user's turn")
    first, second = (
        _answer(answer, prompt, name, where)
        for answer, name in zip(answers, (fields.chosen_field, fields.rejected_field), strict=True)
    )
    alone = len(prompt) == 1
    return prompt[0].content if alone else prompt, first, second


def _check_unread(row: dict[str, object], where: str, fields: OfflineConfig) -> None:
    """Refuse a filled column that other tools put into the prompt, and that would be left out here."""
    read = {fields.prompt_field, fields.chosen_field, fields.rejected_field, fields.system_field}
    read |= {fields.id_field, fields.language_field}
    for name in _UNREAD:
        if row.get(name) and name not in read:
            cure = f"set offline.system_field: {name}" if "system" in name else f"put it into '{fields.prompt_field}'"
            raise UserError(
                f"{where}: field '{name}' would be left out of the prompt; {cure}, or remove the field from the file"
            )


def _opening(
    answers: Sequence[str | tuple[Message, ...]], prompt: tuple[Message, ...], where: str, fields: OfflineConfig
) -> tuple[Message, ...]:
    """The system turn that whole chats have in front of the prompt; nothing if there is none."""
    whole = [chat for chat in answers if not isinstance(chat, str) and len(chat) > len(prompt)]
    found = {chat[0] if chat[0].role == "system" and chat[1 : 1 + len(prompt)] == prompt else None for chat in whole}
    if len(found) > 1:
        raise UserError(
            f"{where}: the chats of {fields.chosen_field} and {fields.rejected_field} begin with different system "
            "turns; both answer the same prompt, so make them equal"
        )
    return tuple(turn for turn in found if turn is not None)


def _with_system(
    row: dict[str, object], prompt: tuple[Message, ...], where: str, fields: OfflineConfig
) -> tuple[Message, ...]:
    """The prompt with the row's system message in front."""
    name = fields.system_field
    if row.get(name) in (None, ""):
        return prompt
    system = Message("system", text_of(row, name, where, setting="offline.system_field"))
    if prompt and prompt[0].role == "system":
        if prompt[0] != system:
            raise UserError(
                f"{where}: field '{name}' and the system turn of the chat are different; remove one of the two"
            )
        return prompt
    return (system, *prompt)


def _side(row: dict[str, object], name: str, where: str, setting: str) -> str | tuple[Message, ...]:
    value = row.get(name)
    return messages_of(value, name, where) if isinstance(value, list) else text_of(row, name, where, setting=setting)


def _common(one: tuple[Message, ...], other: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns that both chats begin with; their last turns are answers, even equal ones."""
    length = 0
    while length < min(len(one), len(other)) - 1 and one[length] == other[length]:
        length += 1
    return one[:length]


def _answer(answer: str | tuple[Message, ...], prompt: tuple[Message, ...], name: str, where: str) -> str:
    if isinstance(answer, str):
        return answer
    # Some files repeat the prompt in front of the answer, with its system turn or without.
    rest = answer
    for turns in (prompt, prompt[1:] if prompt[0].role == "system" else ()):
        if turns and rest[: len(turns)] == turns:
            rest = rest[len(turns) :]
            break
    if len(rest) != 1 or rest[0].role != "assistant":
        roles = ", ".join(message.role for message in rest) or "nothing"
        raise UserError(
            f"{where}: field '{name}' holds {roles} after the prompt instead of one turn of the assistant; move "
            "earlier turns into the prompt"
        )
    return rest[0].content


def offline_pairs(preferences: Sequence[Preference], per_round: int | None, round_number: int) -> list[Pair]:
    """The slice that round ``round_number`` (from 1) trains on."""
    size = per_round or len(preferences)
    return [
        labelled_pair(
            "offline", round_number, one.id, one.language, one.prompt, chosen=one.chosen, rejected=one.rejected
        )
        for one in preferences[(round_number - 1) * size : round_number * size]
    ]


def rounds_of(preferences: Sequence[Preference], per_round: int | None) -> int:
    """How many slices there are; the last may be shorter."""
    return -(-len(preferences) // (per_round or len(preferences)))


def digest(preferences: Sequence[Preference]) -> str:
    """SHA-256 of all that training depends on, hexadecimal; layout and format of the file do not matter."""
    found = hashlib.sha256()
    for one in preferences:
        found.update(repr((one.language, one.id, one.prompt, one.chosen, one.rejected)).encode())
    return found.hexdigest()
