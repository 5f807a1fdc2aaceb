"""Suites that others publish: where they are on the Hub, and which of a folder's files are which language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.language_codes import is_code, standard_code
from configs.reading import files_in, is_file, is_folder, shown
from rollout.formats import arena_hard, aya, language_confusion
from rollout.formats.files import SUFFIXES, is_table, table_files
from rollout.formats.form import Form
from rollout.formats.places import LANG, by_language

FIELD = "--data"
# Of aya_evaluation_suite: by people where a language has it, else by a machine. Both have the same 200 source ids.
_DOLLY = ("dolly_human_edited", "dolly_machine_translated")


@dataclass(frozen=True, slots=True)
class Published:
    """A suite that others publish.

    Attributes:
        form: Of its rows.
        home: Its name on the Hub (``hf:...``), where it has one.
        where: Where a person finds it.
    """

    form: Form
    home: str | None
    where: str


PUBLISHED = {
    "m-arenahard": Published(arena_hard.FORM, "hf:CohereLabs/m-ArenaHard", "CohereLabs/m-ArenaHard"),
    "aya": Published(aya.FORM, "hf:CohereLabs/aya_evaluation_suite", "CohereLabs/aya_evaluation_suite"),
    "language-confusion": Published(
        language_confusion.FORM, None, "test_sets/monolingual and test_sets/crosslingual of for-ai/language-confusion"
    ),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Some files of a suite.

    Attributes:
        files: In order.
        code: Language of their rows; None where the rows say it.
        prefix: Before the ids of their rows, which number them by file.
        rest: Only languages that earlier places lack are taken from here.
    """

    files: tuple[Path, ...]
    code: str | None = None
    prefix: str = ""
    rest: bool = False


def places(name: str, place: str) -> list[Place]:
    """The files of a suite.

    Args:
        name: Of the suite.
        place: A folder, a file, or a path with ``{lang}``.

    Raises:
        UserError: There are none, or two of one language.
    """
    if LANG in place:
        found = by_language(place, FIELD)
        if not found:
            raise UserError(f"{shown(place)}: no such file in any language; check {FIELD}")
        return [Place(tuple(table_files(path, FIELD)), code) for code, path in sorted(found.items())]
    path = Path(place)
    if not is_folder(path):
        if is_file(path) and not is_table(path):
            table_files(path, FIELD)  # says that it is no table
        return [Place((path,))]
    if name == "language-confusion":
        return _tree(path)
    if name == "aya" and all(is_folder(path / part) for part in _DOLLY):
        return [Place(tuple(table_files(path / part, FIELD)), rest=part != _DOLLY[0]) for part in _DOLLY]
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():  # as `datasets` saves a set
        return [Place(tuple(table_files(path, FIELD)))]
    return _by_language(path)


def _by_language(folder: Path) -> list[Place]:
    """A file a language, else a folder a language, else files whose rows say it."""
    entries = files_in(folder)
    tables = [path for path in entries if is_table(path) and not is_folder(path)]
    named = [(code, path) for path in tables if (code := _code(_stem(path))) is not None]
    if not tables:
        named = [(code, path) for path in entries if is_folder(path) and (code := _code(path.name)) is not None]
    if named:
        files: dict[str, Path] = {}
        for code, path in named:
            known = files.setdefault(code, path)
            # es.json and es.jsonl are taken for the same prompts: the first is read.
            if _stem(known) != _stem(path):
                raise UserError(f"{FIELD}: {shown(known)} and {shown(path)} are both '{code}'; remove one")
        return [Place(tuple(table_files(path, FIELD)), code) for code, path in sorted(files.items())]
    if tables:
        return [Place(tuple(tables))]
    raise UserError(f"{folder}: has no file of a language, such as es.jsonl or es.json; check {FIELD}")


def _tree(folder: Path) -> list[Place]:
    """Tables at any depth: the Language Confusion Benchmark has a folder a source, and above it one a task."""
    files = sorted(path for path in folder.rglob("*") if is_table(path) and path.is_file())
    if not files:
        raise UserError(f"{folder}: has no {', '.join(SUFFIXES)} file at any depth; check {FIELD}")
    # The form's ids begin with the source; the task is what is above its folder.
    return [Place((file,), prefix=_joined(file.relative_to(folder).parts[:-2])) for file in files]


def _joined(parts: Sequence[str]) -> str:
    return "".join(f"{part}/" for part in parts)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _code(name: str) -> str | None:
    return standard_code(name) or (name if is_code(name) else None)
