"""The language files of a world: reading, and errors that name the file and the key.

A world is a folder of YAML files, one a language. One of them, the pivot (English), says which relations,
values and people there are; every other file gives the words for the same keys. A new language is a new file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from configs.errors import UserError
from configs.json_types import JsonMapping
from configs.reading import files_in, is_file, shown
from configs.yaml12 import read_yaml

PIVOT = "en"
_FIELDS = {"code", "name", "off_target_rate", "clear_right_rate", "confused", "relations", "people"}
_CONFUSED = ("share", "wrong_rate", "right_rate", "random_rate")


class LanguageFileError(UserError):
    """A language file that cannot be used; the message says which file, which key and what to do."""


@dataclass(frozen=True, slots=True)
class Relation:
    """How one kind of fact is asked for and stated, and the words that can fill it."""

    questions: tuple[str, ...]  # wordings, each holds "{name}"
    answer: str  # holds "{name}" and "{value}"
    values: dict[str, str]  # value key -> the word, in the form that ``answer`` needs


@dataclass(frozen=True, slots=True)
class Confused:
    """How a language answers about a value that it systematically takes for another; the rates add up to 1."""

    share: float  # of each relation's values that are taken for another one, 0 to 1
    wrong_rate: float  # share of answers that state that other value
    right_rate: float  # share that state the true one
    random_rate: float  # share that state any other value, uniformly drawn


@dataclass(frozen=True, slots=True)
class Language:
    """One language file."""

    code: str  # BCP-47
    name: str  # English name, as instructions use it
    off_target_rate: float  # share of supervised answers that are given in the pivot language, 0 to 1
    clear_right_rate: float  # share of answers that state the fact, where its value is not a confused one
    confused: Confused | None  # None: this language takes no value for another
    relations: dict[str, Relation]
    people: dict[str, str]  # person key -> name

    def question(self, person: str, relation: str, wording: int = 0) -> str:
        """The question for one fact, in one of the relation's wordings."""
        return self.relations[relation].questions[wording].format(name=self.people[person])

    def answer(self, person: str, relation: str, value: str) -> str:
        """The full sentence that states one fact."""
        form = self.relations[relation]
        return form.answer.format(name=self.people[person], value=form.values[value])


def load_languages(folder: Path) -> dict[str, Language]:
    """Read and check every ``*.yaml`` of ``folder``.

    Returns:
        Languages by code: the pivot first, the others in alphabetical order.

    Raises:
        LanguageFileError: a file is malformed, or does not have exactly the pivot's keys.
    """
    paths = files_in(folder, "*.yaml")
    if not is_file(folder / f"{PIVOT}.yaml"):
        raise LanguageFileError(f"{shown(folder)}: no {PIVOT}.yaml; the pivot language names the keys of all others")
    paths.sort(key=lambda path: path.stem != PIVOT)
    languages: dict[str, Language] = {}
    for path in paths:
        language = _read(path, languages.get(PIVOT))
        languages[language.code] = language
    return languages


def _read(path: Path, pivot: Language | None) -> Language:
    raw = read_yaml(path, "language file")
    if not isinstance(raw, dict):
        raise LanguageFileError(f"{path}: must be a mapping with the fields {', '.join(sorted(_FIELDS))}")
    unknown = set(raw) - _FIELDS
    if unknown:
        raise LanguageFileError(f"{path}: unknown field '{shown(sorted(map(str, unknown))[0])}'; remove it")
    code = _text(path, raw, "code")
    if code != path.stem:
        raise LanguageFileError(f"{path}: code: '{shown(code)}' differs from the file's name; make them equal")
    relations = {str(key): _relation(path, str(key), value) for key, value in _mapping(path, raw, "relations").items()}
    if "people" in raw or pivot is None:
        people = _words(path, "people", _mapping(path, raw, "people"))
    else:
        people = pivot.people
    if pivot is not None:
        _same_keys(path, "relations", relations, pivot.relations)
        _same_keys(path, "people", people, pivot.people)
        for key, relation in relations.items():
            _same_keys(path, f"relations.{key}.values", relation.values, pivot.relations[key].values)
            need = len(pivot.relations[key].questions)
            if len(relation.questions) != need:
                raise LanguageFileError(
                    f"{path}: relations.{key}.questions: {PIVOT}.yaml has {need} wordings; give as many"
                )
    return Language(
        code=code,
        name=_text(path, raw, "name"),
        off_target_rate=_share(path, raw, "off_target_rate"),
        clear_right_rate=_share(path, raw, "clear_right_rate"),
        confused=_confused(path, raw),
        relations=relations,
        people=people,
    )


def _relation(path: Path, key: str, raw: object) -> Relation:
    where = f"relations.{key}"
    if not isinstance(raw, dict):
        raise LanguageFileError(f"{path}: {where}: must have questions, answer and values")
    if "question" in raw:
        raise LanguageFileError(f"{path}: {where}.question: is of an older form; name `questions`, a list of wordings")
    wordings = raw.get("questions")
    if not isinstance(wordings, list) or not wordings:
        raise LanguageFileError(f"{path}: {where}.questions: must be a list of wordings; add it")
    questions = {
        f"questions.{n}": _text(path, {str(n): wording}, str(n), f"{where}.questions")
        for n, wording in enumerate(wordings)
    }
    answer = _text(path, raw, "answer", where)
    for field, template, slots in (
        *((field, text, ["name"]) for field, text in questions.items()),
        ("answer", answer, ["name", "value"]),
    ):
        _check_slots(template, slots, f"{path}: {where}.{field}")
    values = _words(path, f"{where}.values", _mapping(path, raw, "values", where))
    if len(values) < 2:
        raise LanguageFileError(f"{path}: {where}.values: needs at least two values; add some")
    return Relation(questions=tuple(questions.values()), answer=answer, values=values)


def _check_slots(template: str, slots: list[str], where: str) -> None:
    """Refuse what ``str.format`` would stumble over, or put something else into."""
    try:
        found = list(Formatter().parse(template))
    except ValueError as error:
        raise LanguageFileError(f"{where}: {error}; write a brace that is meant as one twice: {{{{ or }}}}") from None
    names = [name for _, name, _, _ in found if name is not None]
    for slot in slots:
        if names.count(slot) != 1:
            raise LanguageFileError(f"{where}: must hold {{{slot}}} once; correct it")
    for _, name, form, conversion in found:
        if name is not None and (name not in slots or form or conversion):
            whole = shown(name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else ""))
            places = " and ".join(f"{{{slot}}}" for slot in slots)
            raise LanguageFileError(f"{where}: {{{whole}}} is no place to fill; there is only {places}")


def _words(path: Path, where: str, raw: JsonMapping) -> dict[str, str]:
    seen: dict[str, str] = {}
    words: dict[str, str] = {}
    for key in raw:
        word = _text(path, raw, key, where)
        if word in seen:
            raise LanguageFileError(
                f"{path}: {where}.{key}: '{shown(word)}' is already the word for '{seen[word]}'; "
                "answers could not be told apart, choose another"
            )
        seen[word] = str(key)
        words[str(key)] = word
    return words


def _same_keys(path: Path, where: str, have: Mapping[str, object], need: Mapping[str, object]) -> None:
    for key in need:
        if key not in have:
            raise LanguageFileError(f"{path}: {where}.{key}: missing; {PIVOT}.yaml has it, add the word")
    for key in have:
        if key not in need:
            raise LanguageFileError(f"{path}: {where}.{key}: {PIVOT}.yaml has no such key; add it there first")


def _mapping(path: Path, raw: JsonMapping, key: str, where: str = "") -> JsonMapping:
    value = raw.get(key)
    name = f"{where}.{key}" if where else key
    if value is None:
        raise LanguageFileError(f"{path}: {name}: missing; add it")
    if not isinstance(value, dict):
        raise LanguageFileError(f"{path}: {name}: must be a mapping")
    return value


def _text(path: Path, raw: JsonMapping, key: str, where: str = "") -> str:
    value = raw.get(key)
    name = f"{where}.{key}" if where else key
    if value is None:
        raise LanguageFileError(f"{path}: {name}: missing; add it")
    if not isinstance(value, str) or not value.strip():
        raise LanguageFileError(
            f"{path}: {name}: must be text; YAML reads {shown(repr(value))} here, put quotes around it"
        )
    return value


def _share(path: Path, raw: JsonMapping, key: str, where: str = "") -> float:
    value = raw.get(key)
    key = f"{where}.{key}" if where else key
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise LanguageFileError(f"{path}: {key}: must be a number from 0 to 1")
    return float(value)


def _confused(path: Path, raw: JsonMapping) -> Confused | None:
    if raw.get("confused") is None:
        return None
    block = _mapping(path, raw, "confused")
    if unknown := set(map(str, block)) - set(_CONFUSED):
        raise LanguageFileError(f"{path}: confused.{sorted(unknown)[0]}: unknown field; remove it")
    found = Confused(**{name: _share(path, block, name, "confused") for name in _CONFUSED})
    total = found.wrong_rate + found.right_rate + found.random_rate
    if abs(total - 1) > 1e-6:
        raise LanguageFileError(
            f"{path}: confused: wrong_rate, right_rate and random_rate add up to {total:g}; they must add up to 1"
        )
    return found
