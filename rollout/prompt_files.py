"""Reading the files of parallel prompts: one a language, or one whose rows say their language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from configs.language_codes import code_cure, same_language
from configs.reading import is_folder, shown
from configs.schema import PromptsConfig
from rollout.formats.chats import messages_of
from rollout.formats.files import RawRow, Row, columns_of, is_table, read_table, table_files
from rollout.formats.form import Form, choose
from rollout.formats.forms import PROMPTS
from rollout.formats.left_out import LeftOut
from rollout.formats.places import LANG, place_of
from rollout.jsonl import id_of, text_of
from rollout.languages import language_code
from rollout.records import Message, Prompt

_DEFAULT = PromptsConfig()
_NAMED = ("id_field", "text_field", "system_field", "language_field")
# Columns that other tools put into the prompt.
_UNREAD = ("system_prompt", "system_message", "history", "input", "tools", "images", "videos", "audios")


@dataclass
class FoundPrompts:
    """What the files of a split hold.

    Attributes:
        by_language: Code -> id -> (prompt, file:line), in file order.
        names: Code -> the file or folder of its prompts.
        forms: Names of the forms that were found.
        left_out: Rows of other languages.
    """

    by_language: dict[str, dict[str, tuple[Prompt, str]]]
    names: dict[str, str]
    forms: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)

    def places_of(self, code: str) -> dict[str, str]:
        """Id -> file:line."""
        return {key: where for key, (_, where) in self.by_language[code].items()}


def read_prompts(pattern: str, codes: Sequence[str], fields: PromptsConfig, split: str) -> FoundPrompts:
    """Read the prompts of ``codes``.

    Args:
        pattern: Path, with ``{lang}`` where each language has its own file or folder.
        codes: The languages.
        fields: Form and names of fields.
        split: ``train`` or ``heldout``, for messages.

    Raises:
        UserError: A file is missing or unreadable, a row is bad, or a language has no row.
    """
    setting = f"prompts.{split}"
    found = FoundPrompts({code: {} for code in codes}, {}, ())
    forms: dict[str, None] = {}
    for code in codes if LANG in pattern else (None,):
        place = Path(pattern) if code is None else place_of(pattern, code, setting)
        what = f"{split} prompts" if code is None else f"{split} prompts of language '{code}'"
        for path in table_files(place, setting) if is_folder(place) and not is_table(place) else [place]:
            if code is None and not is_table(path):
                table_files(path, setting)  # says that it is no table
            rows = read_table(path, what)
            form = form_of(rows, fields, path)
            forms["plain" if form is None else form.name] = None
            for raw in rows:
                _take(found, raw, form, fields, code)
        for one in codes if code is None else (code,):
            found.names[one] = str(place)
    found.forms = tuple(forms)
    for code, rows_of in found.by_language.items():
        if not rows_of:
            raise UserError(
                f"{setting}: {shown(pattern)} has no prompt in language '{code}'; add some, or remove it from "
                "languages.codes"
            )
    return found


def form_of(rows: Sequence[RawRow], fields: PromptsConfig, path: Path) -> Form | None:
    """The form of a file's rows, as ``fields.format`` and the columns say; None is the plain one.

    Raises:
        UserError: The file is not of the form that is named.
    """
    wanted = fields.format
    if wanted == "auto" and any(getattr(fields, name) != getattr(_DEFAULT, name) for name in _NAMED):
        wanted = "plain"  # who names fields knows the form
    return choose(PROMPTS, wanted, columns_of(rows), str(path), "prompts.format")


def plain_fields(fields: PromptsConfig) -> PromptsConfig:
    """The fields with the names that rows have which a form has read."""
    return fields.model_copy(update={name: getattr(_DEFAULT, name) for name in _NAMED})


def _take(found: FoundPrompts, raw: RawRow, form: Form | None, fields: PromptsConfig, code: str | None) -> None:
    row, where = raw.read(), raw.where
    if form is not None:
        row = form.read(row, where, raw.number)
        fields = plain_fields(fields)
    if code is None or (form is not None and fields.language_field in row):
        said = _language(row, fields.language_field, where)
        known = same_language(said, found.by_language if code is None else [code])
        if known is None:
            expected = "is not in languages.codes" if code is None else f"is not that of the file, '{code}'"
            found.left_out.add(f"language '{said}' {expected}", where)
            return
        code = known
    key = id_of(row, fields.id_field, where, setting="prompts.id_field")
    prompts = found.by_language[code]
    if key in prompts:
        before = prompts[key][1]
        file, _, line = before.rpartition(":")
        place = f"in line {line}" if where.rpartition(":")[0] == file else f"at {before}"
        raise UserError(f"{where}: id '{key}' was already used {place}; give each row its own id")
    prompts[key] = (prompt_of(row, key, code, fields, where), where)


def _language(row: Row, name: str, where: str) -> str:
    said = text_of(row, name, where, setting="prompts.language_field, or put {lang} into the path")
    code = language_code(said)
    if code is None:
        raise UserError(f"{where}: {name} '{shown(said, 40)}' is no language code; {code_cure(said)}")
    return code


def prompt_of(row: Row, key: str, code: str, fields: PromptsConfig, where: str) -> Prompt:
    """The prompt of a row in the plain form.

    Args:
        row: Its columns.
        key: Its id.
        code: Its language.
        fields: Names of its fields.
        where: file:line, for messages.

    Raises:
        UserError: A field is missing or bad, or the row has one that would be left out of the prompt.
    """
    for name in _UNREAD:
        if row.get(name) and name not in (fields.text_field, fields.system_field, fields.language_field):
            cure = f"set prompts.system_field: {name}" if "system" in name else f"put it into '{fields.text_field}'"
            raise UserError(f"{where}: field '{name}' would be left out of the prompt; {cure}, or remove the field")
    text, before = _turns(row, fields, where)
    answer = None
    if fields.answer_field is not None and fields.answer_field in row:
        value = row[fields.answer_field]
        if isinstance(value, int) and not isinstance(value, bool):
            answer = str(value)
        else:
            answer = text_of(row, fields.answer_field, where, setting="prompts.answer_field")
    cluster, group = (
        None if name is None or name not in row else text_of(row, name, where, setting=f"prompts.{setting}")
        for setting, name in (("cluster_field", fields.cluster_field), ("group_field", fields.group_field))
    )
    return Prompt(key, code, text, answer, cluster, group, before)


def _turns(row: Row, fields: PromptsConfig, where: str) -> tuple[str, tuple[Message, ...]]:
    """The user's last turn, and what is before it."""
    value = row.get(fields.text_field)
    if isinstance(value, list):
        turns = messages_of(value, fields.text_field, where)
        if not turns or turns[-1].role != "user":
            raise UserError(f"{where}: field '{fields.text_field}' must end with a user's turn; cut the answer off")
        text, before = turns[-1].content, turns[:-1]
    else:
        text, before = text_of(row, fields.text_field, where, setting="prompts.text_field"), ()
    said = row.get(fields.system_field)
    if said in (None, ""):
        return text, before
    system = Message("system", text_of(row, fields.system_field, where, setting="prompts.system_field"))
    if before and before[0].role == "system":
        if before[0] != system:
            raise UserError(
                f"{where}: field '{fields.system_field}' and the system turn of the chat are different; remove one of "
                "the two"
            )
        return text, before
    return text, (system, *before)
