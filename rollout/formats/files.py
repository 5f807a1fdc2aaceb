"""Tables in the files that data sets come in: JSON lines, JSON, CSV, parquet, Arrow, and gzip around the texts.

A folder saved by ``datasets`` (``save_to_disk``), or one of such files, is a table too. A row is read when it is asked
for, so that every bad one can be named.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs.errors import UserError
from configs.files import as_text
from configs.reading import files_in, is_folder, kind, parse_json, read_bytes, read_json, shown
from rollout.jsonl import lines_of, parse_row

Row = dict[str, object]
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
_NO_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"})


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row that is not read yet.

    Attributes:
        where: file:line, of binary tables file:row, from 1.
        number: Of the row in its file, from 1.
        read: Gives its columns; raises ``UserError`` where it is none.
    """

    where: str
    number: int
    read: Callable[[], Row]


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return path.name.endswith(SUFFIXES) and path.name not in _NO_DATA


def table_files(place: Path, field: str) -> list[Path]:
    """The files of a table: itself, those of a saved data set in their order, or all tables of a folder by name.

    Args:
        place: A file or a folder.
        field: Config field that names it, for messages.

    Raises:
        UserError: The folder has no table, or several splits; or the file is of another kind.
    """
    if not is_folder(place):
        if not is_table(place):
            raise UserError(
                f"{field}: {shown(place)} is none of {', '.join(SUFFIXES)}, nor a folder with such; convert or rename "
                "it"
            )
        return [place]
    if (splits := place / "dataset_dict.json").is_file():
        names = _names(splits, "splits")
        if len(names) != 1:
            raise UserError(
                f"{field}: {shown(place)} holds the splits {shown(', '.join(names)) or '(none)'}; name one, such as "
                f"{shown(place / (names[0] if names else 'train'))}"
            )
        return table_files(place / names[0], field)
    if (state := place / "state.json").is_file():
        return [place / name for name in _names(state, "_data_files")]
    found = [path for path in files_in(place) if is_table(path) and not is_folder(path)]
    if not found:
        inner = [path.name for path in files_in(place) if is_folder(path)]
        hint = f"; it has the folders {shown(', '.join(inner))}" if inner else ""
        raise UserError(f"{field}: {shown(place)} names no {', '.join(SUFFIXES)} file{hint}; correct the path")
    return found


def _names(path: Path, key: str) -> list[str]:
    """The names that an index of a saved data set lists."""
    cure = "save the data set again"
    data = read_json(path, "index of a saved data set", cure)
    entries = data.get(key) if isinstance(data, dict) else None
    entries = entries if isinstance(entries, list) else [None]
    names = [one.get("filename") if isinstance(one, dict) else one for one in entries]
    good = [name for name in names if isinstance(name, str) and name and Path(name).name == name]
    if len(good) != len(names):
        raise UserError(f"{path}: names no {key}; {cure}")
    return good


def read_table(path: Path, what: str) -> list[RawRow]:
    """All rows of a file.

    Args:
        path: Its name says what it is (``SUFFIXES``).
        what: It holds, for messages, e.g. "preference pairs".

    Raises:
        UserError: The file is missing, empty, or unreadable as a whole.
    """
    data = read_bytes(path, what, "create it or correct the path in the config")
    name = path.name
    if name.endswith(".gz"):
        data, name = _unzipped(data, path), name.removesuffix(".gz")
    if name.endswith((".parquet", ".arrow")):
        rows = list(_binary(data, path, arrow=name.endswith(".arrow")))
    elif name.endswith((".csv", ".tsv")):
        rows = list(_delimited(data, path, "\t" if name.endswith(".tsv") else ","))
    elif name.endswith(".json") and data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        rows = list(_json_list(data, path))
    else:
        rows = [
            RawRow(f"{path}:{number}", number, partial(parse_row, raw, f"{path}:{number}"))
            for number, raw in enumerate(lines_of(data, path, what), start=1)
        ]
    if not rows:
        raise UserError(f"{path}: the file is empty ({what}); put one in each row")
    return rows


def columns_of(rows: Sequence[RawRow], looked_at: int = 20) -> frozenset[str]:
    """The columns of the first rows that can be read; some may be empty in some of them."""
    found: set[str] = set()
    for raw in rows[:looked_at]:
        try:
            found.update(raw.read())
        except UserError:
            continue  # is named when the rows are read
    return frozenset(found)


def _unzipped(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked with gzip ({shown(error)}); fetch the file again") from None


def _binary(data: bytes, path: Path, arrow: bool) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pa.BufferReader(data)
        if not arrow:
            table = pq.read_table(source)
        elif data.startswith(b"ARROW1"):
            table = pa.ipc.open_file(source).read_all()
        else:
            table = pa.ipc.open_stream(source).read_all()
        rows: list[Row] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # The last two: dates that Python does not have, texts that are no UTF-8.
        form = "Arrow" if arrow else "parquet"
        raise UserError(f"{path}: cannot be read as {form} ({shown(error)}); write the file again") from None
    for number, row in enumerate(rows, start=1):
        # A column that only some rows have is null in the others.
        filled = {name: value for name, value in row.items() if value is not None}
        yield RawRow(f"{path}:{number}", number, partial(dict, filled))


def _json_list(data: bytes, path: Path) -> Iterator[RawRow]:
    entries = parse_json(as_text(data, str(path)), str(path), "write one list of objects")
    for number, entry in enumerate(entries, start=1):
        yield RawRow(f"{path}: entry {number}", number, partial(_object, entry, f"{path}: entry {number}"))


def _object(entry: object, where: str) -> Row:
    if not isinstance(entry, dict):
        raise UserError(f'{where}: {kind(entry)} instead of an object; write {{"field": ...}} for each')
    return dict(entry)


def _delimited(data: bytes, path: Path, delimiter: str) -> Iterator[RawRow]:
    text = as_text(data, str(path))
    # The limit is the process's; a cell may hold a whole document.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number, start = 0, 1
    try:
        for cells in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if header is None:
                header = _header(cells, path)
            elif cells:
                number += 1
                yield RawRow(where, number, partial(_cells, header, cells, where))
    except csv.Error as error:
        raise UserError(
            f"{path}:{start}: not valid CSV ({shown(error)}); put texts with quotes or newlines in double quotes, "
            "inner ones doubled"
        ) from None


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UserError(f"{path}:1: column '{shown(twice[0], 40)}' is there twice; rename one of them")
    if not any(names):
        raise UserError(f"{path}:1: has no column names; put them in the first line")
    return names


def _cells(header: list[str], cells: list[str], where: str) -> Row:
    if len(cells) != len(header):
        raise UserError(
            f"{where}: has {len(cells)} cells where the first line names {len(header)} columns; put texts with commas "
            "in double quotes"
        )
    # An empty cell is as good as none; a chat lies in a cell as JSON.
    return {name: _chat_or_text(cell) for name, cell in zip(header, cells, strict=True) if name and cell}


def _chat_or_text(cell: str) -> object:
    if not cell.lstrip().startswith("[{"):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    chat = isinstance(value, list) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in value)
    return value if chat else cell
