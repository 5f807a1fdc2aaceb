"""Preference files: every row is read and checked before anything starts, and all that is wrong is said at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs.errors import UserError
from configs.language_codes import LANGUAGE_PATTERN, code_cure, is_code
from configs.reading import files_in, is_folder, read_bytes, shown
from configs.schema import Config, OfflineConfig
from rollout.jsonl import id_of, parse_row, read_lines, text_of
from rollout.records import Message, Pair, Turns, labelled_pair

SHOWN = 10  # problems that a message lists
SUFFIXES = (".jsonl", ".parquet")

_LANG = "{lang}"
# Columns that other tools (LLaMA-Factory, Alpaca's form, TRL) put into the prompt.
_UNREAD = ("system", "system_prompt", "system_message", "history", "input", "tools", "images", "videos", "audios")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Preference:
    """One row of a preference file. ``where`` is file:line (of a parquet file: file:row), from 1."""

    id: str
    language: str
    prompt: Turns
    chosen: str
    rejected: str
    where: str


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
    """Read ``offline.path``, in the order of the file (of files: by name); at most ``offline.limit`` rows are given.

    Raises:
        UserError: A file is missing, empty or unreadable, or rows are bad: file:line, field and cure of the first ten,
            and how many there are.
    """
    offline = config.offline
    problems: list[str] = []
    found: list[Preference] = []
    places: dict[tuple[str, str], str] = {}
    for path, language in preference_files(offline):
        for where, read in _rows(path):
            try:
                one = _preference(read(), where, config, language or config.languages.dominant)
            except UserError as error:
                problems.append(str(error))
                continue
            first = places.setdefault((one.language, one.id), where)
            if first != where:
                problems.append(
                    f"{where}: {offline.id_field} '{one.id}' of language '{one.language}' was already used in {first}; "
                    "give each row its own, or set offline.id_field to a field that is not there"
                )
            found.append(one)
    refuse(problems)
    return found[: offline.limit]


def preference_files(offline: OfflineConfig) -> list[tuple[Path, str | None]]:
    """The files of ``offline.path`` by name, and the language that ``{lang}`` stands for in each.

    Raises:
        UserError: There is none, or one is neither ``.jsonl`` nor ``.parquet``.
    """
    text = offline.path or ""
    path = Path(text)
    if _LANG in text:
        if _LANG not in path.name or path.name.count(_LANG) > 1:
            raise UserError(f"offline.path: {shown(text)} must have {_LANG} once, in the file's name")
        name = re.compile(re.escape(path.name).replace(re.escape(_LANG), f"({LANGUAGE_PATTERN})"))
        matches = [(file, name.fullmatch(file.name)) for file in files_in(path.parent)]
        files: list[tuple[Path, str | None]] = [(file, match[1]) for file, match in matches if match]
    elif is_folder(path):
        files = [(file, None) for file in files_in(path) if file.suffix in SUFFIXES]
    else:
        files = [(path, None)]
    if not files:
        raise UserError(f"offline.path: {shown(text)} names no {' or '.join(SUFFIXES)} file; correct the path")
    for file, _ in files:
        if file.suffix not in SUFFIXES:
            raise UserError(f"offline.path: {shown(file)} is neither {' nor '.join(SUFFIXES)}; convert or rename it")
    return files


def _rows(path: Path) -> Iterator[tuple[str, Callable[[], dict[str, object]]]]:
    """Where each row is, and how to read it (which may raise)."""
    if path.suffix == ".parquet":
        for number, row in enumerate(_parquet_rows(path), start=1):
            yield f"{path}:{number}", partial(dict, row)
        return
    for number, raw in enumerate(read_lines(path, "preference pairs"), start=1):
        where = f"{path}:{number}"
        yield where, partial(parse_row, raw, where)


def _parquet_rows(path: Path) -> list[dict[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_bytes(path, "preference pairs", "correct offline.path")
    try:
        rows: list[dict[str, object]] = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # The last two: dates that Python does not have, texts that are no UTF-8.
        raise UserError(f"{path}: cannot be read as parquet ({shown(error)}); write the file again") from None
    if not rows:
        raise UserError(f"{path}: the file is empty (preference pairs); put one pair on each row")
    # A column that only some rows have is null in the others.
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _preference(row: dict[str, object], where: str, config: Config, language: str) -> Preference:
    fields = config.offline
    if fields.language_field in row:
        language = text_of(row, fields.language_field, where, setting="offline.language_field").strip()
    if not is_code(language):
        raise UserError(
            f"{where}: {fields.language_field} '{shown(language, 40)}' is no language code; {code_cure(language)}"
        )
    if config.languages.codes and language not in config.languages.codes:
        raise UserError(
            f"{where}: {fields.language_field} '{language}' is not in languages.codes; add it there or remove the row"
        )
    if fields.id_field in row:
        key = id_of(row, fields.id_field, where, setting="offline.id_field")
    else:
        key = Path(where).name
    prompt, chosen, rejected = _texts(row, where, fields)
    if chosen.strip() == rejected.strip():
        raise UserError(
            f"{where}: {fields.chosen_field} and {fields.rejected_field} are equal; remove the row or correct one"
        )
    return Preference(key, language, prompt, chosen, rejected, where)


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
    return _messages(value, name, where) if isinstance(value, list) else text_of(row, name, where, setting=setting)


def _messages(value: list[object], name: str, where: str) -> tuple[Message, ...]:
    if not value:
        raise UserError(f"{where}: field '{name}' is an empty list; put at least one message in it, or remove the row")
    messages = []
    for number, item in enumerate(value, start=1):
        place = f"{where}: field '{name}', message {number}"
        if not isinstance(item, dict) or "role" not in item or "content" not in item:
            raise UserError(f'{place}: not a message; write {{"role": ..., "content": ...}}')
        role = item["role"]
        if role not in _ROLES:
            raise UserError(f"{place}: unknown role {shown(role)}; use one of {', '.join(_ROLES)}")
        messages.append(Message(role, text_of(item, "content", place)))
    return tuple(messages)


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


def offline_pairs(preferences: Sequence[Preference], per_round: int | None, round: int) -> list[Pair]:
    """The slice that round ``round`` (from 1) trains on."""
    size = per_round or len(preferences)
    return [
        labelled_pair("offline", round, one.id, one.language, one.prompt, one.chosen, one.rejected)
        for one in preferences[(round - 1) * size : round * size]
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
