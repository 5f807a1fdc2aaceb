"""The one reader and writer of YAML: version 1.2's core schema, strict, bounded, every failure a ``UserError``.

ruamel.yaml scans and parses; the values are made here from its events, so that size, depth, aliases, keys and tags are
judged before anything is built, by one loop that does not recurse. `no` is a string, `017` is 17, `1:30` and
`2024-01-01` are strings, `1e-4` is a number.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

from configs.errors import UserError, shortened
from configs.files import read_text, shown_path
from configs.json_types import Json

MAX_DEPTH = 64
MAX_VALUES = 20_000  # mappings, lists and scalars, what aliases stand for included
_MAX_DIGITS = 400  # of a number; a double has no more than 309 before its point

ANY_NUMBER = re.compile("")
# Numbers as PyYAML writes them: in a file that it wrote, other plain words are strings (`089`, `1e5`).
PYYAML_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:e[+-][0-9]+)?)?\Z|-?\.inf\Z|\.nan\Z")

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)


def read_yaml(path: Path, what: str = "YAML file", cure: str = "check the path") -> Json:
    """The value of a file; None if it holds none.

    Args:
        path: As the user gave it.
        what: What the file should be, for messages.
        cure: What to do where there is none.

    Raises:
        UserError: Names the file and line and says what to do.
    """
    return load_yaml(read_text(path, what, cure), shown_path(path))


def load_yaml(text: str, where: str, numbers: re.Pattern[str] = ANY_NUMBER) -> Json:
    """The value of a text; None if it holds none.

    Args:
        text: One YAML document.
        where: The file's name, or what else the text is, for messages.
        numbers: Plain words that look like a number but do not match this are strings.

    Raises:
        UserError: ``<where>:<line>: not valid YAML: <what is wrong>``.
    """
    loader = _Builder(where, numbers)
    for event in _events(text, where):
        loader.take(event)
    return loader.value


def dump_yaml_value(value: Json) -> str:
    """A text that :func:`load_yaml` reads as ``value``: mappings, lists, strings, numbers, booleans and None."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # the order of the schema
    yaml.allow_unicode = True
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Writes every value out, without anchors, and quotes what is not plainly readable."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        # Left plain or in single quotes, line breaks other than \n would be read back as spaces.
        return self.represent_scalar(f"{_TAG}str", data, style=None if data.isprintable() else '"')


_Representer.add_representer(str, _Representer.represent_str)


def _events(text: str, where: str) -> Iterator[Any]:
    line = 1
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            line = event.start_mark.line + 1
            yield event
    except UserError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _bad(where, line if mark is None else mark.line + 1, error.problem or error.context or "") from None
    except ReaderError as error:
        at = text.count("\n", 0, error.position) + 1
        raise _bad(where, at, f"character #x{error.character:04x} is not allowed in YAML; remove it") from None
    except Exception as error:  # the scanner's own slips on odd input are not the user's to read
        raise _bad(where, line, f"cannot be read ({type(error).__name__})") from None


def _bad(where: str, line: int, problem: str) -> UserError:
    return UserError(f"{where}:{line}: not valid YAML: {shortened(problem)}")


@dataclass
class _Open:
    """A mapping or list whose end has not come yet."""

    value: dict[Json, Json] | list[Json]
    before: int  # values counted before it
    anchor: str | None
    key: Json = None
    has_key: bool = False
    merged: list[Json] = field(default_factory=list)  # of `<<` keys


class _Builder:
    """Makes values of events."""

    def __init__(self, where: str, numbers: re.Pattern[str]) -> None:
        self.value: Json = None
        self._where = where
        self._numbers = numbers
        self._line = 1
        self._count = 0
        self._documents = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Json, int]] = {}

    def take(self, event: Any) -> None:
        """One more event, in the text's order."""
        self._line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._error("a second document begins here (`---`); keep one in a file")
        elif isinstance(event, MappingStartEvent):
            self._begin({}, event, "map")
        elif isinstance(event, SequenceStartEvent):
            self._begin([], event, "seq")
        elif isinstance(event, ScalarEvent):
            value = self._scalar(event)
            self._counted(1)
            if event.anchor is not None:
                self._anchors[event.anchor] = (value, 1)
            self._put(value, merge=event.value == "<<" and event.implicit[0])
        elif isinstance(event, AliasEvent):
            self._alias(event.anchor)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._end()

    def _error(self, problem: str) -> UserError:
        return _bad(self._where, self._line, problem)

    def _counted(self, values: int) -> None:
        self._count += values
        if self._count > MAX_VALUES:
            raise self._error(f"more than {MAX_VALUES} values, aliases counted as what they stand for; make it smaller")

    def _begin(self, value: dict[Json, Json] | list[Json], event: Any, kind: str) -> None:
        if event.tag not in (None, "!", _TAG + kind):
            raise self._error(f"unknown tag '{shortened(str(event.tag), 60)}'; remove it")
        if len(self._open) >= MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels; close brackets, or flatten it")
        if self._wants_key():
            raise self._error("a list or mapping as a key; keys are single words")
        self._counted(1)
        self._open.append(_Open(value, self._count - 1, event.anchor))

    def _end(self) -> None:
        done = self._open.pop()
        if isinstance(done.value, dict):
            for below in done.merged:
                for key, value in below.items():
                    done.value.setdefault(key, value)
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.value, self._count - done.before)
        self._put(done.value)

    def _alias(self, name: str) -> None:
        if any(level.anchor == name for level in self._open):
            raise self._error(f"'*{shortened(name, 60)}' lies within what it stands for; write it out")
        if name not in self._anchors:
            raise self._error(f"'*{shortened(name, 60)}' stands for nothing above; name an anchor, or quote it")
        value, size = self._anchors[name]
        self._counted(size)
        if self._wants_key() and isinstance(value, dict | list):
            raise self._error("a list or mapping as a key; keys are single words")
        self._put(copy.deepcopy(value))  # its own, as overrides change values in place

    def _wants_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and not self._open[-1].has_key

    def _put(self, value: Json, merge: bool = False) -> None:
        if not self._open:
            self.value = value
            return
        level = self._open[-1]
        if isinstance(level.value, list):
            level.value.append(value)
        elif not level.has_key:
            level.key, level.has_key = _MERGE if merge else value, True
            if level.key in level.value and not merge:
                raise self._error(f"'{shortened(str(value), 60)}' is given twice; remove one")
        else:
            level.has_key = False
            if level.key is _MERGE:
                self._merge(level, value)
            else:
                level.value[level.key] = value

    def _merge(self, level: _Open, value: Json) -> None:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self._error("`<<` takes in mappings; name one, or quote it")
        level.merged.extend(parts)

    def _scalar(self, event: Any) -> Json:
        text = event.value
        if not text.isascii():
            try:
                # A pair of escapes as JSON writes characters beyond the 16-bit plane.
                text = text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise self._error("half a character (a lone surrogate); write it out") from None
        if event.tag in (None, "!"):
            return self._plain(text) if event.implicit[0] and event.tag is None else text
        kind = str(event.tag).removeprefix(_TAG)
        if kind not in _KINDS:
            raise self._error(f"unknown tag '{shortened(str(event.tag), 60)}'; remove it")
        matches, make = _KINDS[kind]
        if matches.match(text) is None or len(text) > _MAX_DIGITS:
            raise self._error(f"'{shortened(text, 60)}' is no {kind}; correct it, or remove the tag")
        return make(text)

    def _plain(self, text: str) -> Json:
        for kind, (matches, make) in _KINDS.items():
            if kind in ("int", "float") and self._numbers.match(text) is None:
                continue
            if kind != "str" and matches.match(text):
                if len(text) > _MAX_DIGITS:
                    raise self._error(f"a number of {len(text)} digits; shorten it, or quote it")
                return make(text)
        return text


class _MergeKey:
    """Stands for a plain ``<<`` among keys."""


_MERGE = _MergeKey()


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], Json]]] = {
    "null": (_NULL, lambda text: None),
    "bool": (_BOOL, lambda text: text.lower() == "true"),
    "int": (_INT, _int),
    "float": (_FLOAT, lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))),
    "str": (re.compile(""), str),
}
