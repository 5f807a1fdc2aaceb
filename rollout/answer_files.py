"""Ready-made answers from a file, joined with the prompts by id; every bad row is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.reading import read_bytes, shown
from configs.schema import Config
from configs.sources import FileSource
from rollout.jsonl import id_of, read_rows, text_of
from rollout.prompts import PromptSet
from rollout.sources import Source, setting, sources


@dataclass(frozen=True)
class FileAnswers:
    """The answers of one file source.

    Attributes:
        texts: (prompt id, language) -> (answer, model or None) of its rows, in file order, at most ``samples``.
        unmatched: Rows whose id is no prompt of the run.
        beyond: Rows of an id beyond ``samples``.
        unanswered: Language -> prompts that have no row; languages without such prompts are left out.
        prompts: Prompts of a language.
    """

    texts: dict[tuple[str, str], list[tuple[str, str | None]]]
    unmatched: int
    beyond: int
    unanswered: dict[str, int]
    prompts: int


def load_answers(config: Config, prompts: PromptSet) -> dict[str, FileAnswers]:
    """Read the files of all file sources: source -> answers.

    Raises:
        UserError: A file is missing, empty or unreadable, a row is bad, or no row answers a prompt of the run.
    """
    return {
        source.name: _load(config, prompts, source)
        for source in sources(config)
        if source.giver == "file" and source.of is None
    }


def left_out_lines(answers: Mapping[str, FileAnswers]) -> list[str]:
    """Lines on the sources of which rows are not used, or that have no answer to some prompts."""
    found = []
    for source, one in answers.items():
        parts = [f"{one.unmatched} rows of ids that are no prompt here"] if one.unmatched else []
        parts += [f"{one.beyond} rows beyond its samples"] if one.beyond else []
        found += [f"source '{source}' leaves out {' and '.join(parts)}"] if parts else []
        without = [f"{missing} in {code}" for code, missing in one.unanswered.items()]
        if without:
            found.append(f"source '{source}' has no answer to some of the {one.prompts} prompts: {', '.join(without)}")
    return found


def _load(config: Config, prompts: PromptSet, source: Source) -> FileAnswers:
    own = setting(config.candidates, source)
    assert isinstance(own, FileSource)
    field = f"candidates.sources.{source.place}"
    wanted = tuple(source.languages or config.languages.codes)
    split = "{lang}" in own.path
    files = [(Path(own.path.replace("{lang}", code)), code) for code in wanted] if split else [(Path(own.path), None)]
    texts: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    unmatched = beyond = elsewhere = 0
    first = ""
    for path, language in files:
        for where, row in _rows(path, f"answers of source '{source.name}'"):
            code = language or text_of(row, own.fields.language, where, setting=f"{field}.fields.language").strip()
            if code not in config.languages.codes:
                raise UserError(f"{where}: language '{shown(code, 40)}' is not in languages.codes; add it or remove it")
            key = id_of(row, own.fields.id, where, setting=f"{field}.fields.id")
            text = text_of(row, own.fields.text, where, setting=f"{field}.fields.text").strip()
            model = row.get(own.fields.model)
            if model is not None and not isinstance(model, str):
                raise UserError(f"{where}: field '{own.fields.model}' is no text; put the model's name in quotes")
            if code not in wanted:
                elsewhere += 1
                continue
            if (key, code) not in prompts.rows:
                unmatched += 1
                first = first or where
                continue
            rows = texts.setdefault((key, code), [])
            if len(rows) == own.samples:
                beyond += 1
            else:
                rows.append((text, model))
    if not texts:
        raise UserError(
            f"{field}.path: none of the {unmatched + elsewhere} rows of {own.path} answers a prompt of this run"
            + (f" (first: {first}); its '{own.fields.id}' must be an id of prompts.train" if first else "")
            + (f"; {elsewhere} are in other languages than {', '.join(wanted)}" if elsewhere else "")
        )
    missing = {code: sum(row not in texts for row in prompts.rows if row[1] == code) for code in wanted}
    return FileAnswers(texts, unmatched, beyond, {code: n for code, n in missing.items() if n}, len(prompts.ids))


def _rows(path: Path, what: str) -> Iterator[tuple[str, dict[str, object]]]:
    if path.suffix != ".parquet":
        for number, row in read_rows(path, what):
            yield f"{path}:{number}", row
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_bytes(path, what, "create it or correct the path in the config")
    try:
        rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({shown(error)}); write the file again") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", {name: value for name, value in row.items() if value is not None}
