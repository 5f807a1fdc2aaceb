"""A study: a grid of overrides and seeds over one base config, and the questions that its runs are to answer.

Read and checked before anything starts: every row becomes a validated config, and every name that a question uses is
there.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, SequenceNode

from configs.base import Section
from configs.errors import UserError, shortened
from configs.explain import explained, joined
from configs.files import read_text, shown_path
from configs.load import load_config
from configs.presets import beside, find_preset
from configs.schema import Config
from configs.yaml12 import load_yaml

_WHAT, _CURE = "study file", "see configs/studies/ for one"
_OWN = ("run.name", "run.dir", "run.seed")  # set by the study itself
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MOST_RUNS = 10_000
MeasureName = Literal["greedy", "sampled", "judged", "artefacts"]
Name = Annotated[str, Field(pattern=_NAME, max_length=60)]


class StudyRow(Section):
    """A row beside those of the axes."""

    title: str | None = Field(None, max_length=120, description="In tables; by default its name.")
    base: str | None = Field(None, description="A config of its own instead of the study's `base`.")
    set: list[str] = Field(default_factory=list, description="Overrides, `section.field=value`.")


class StudyStep(Section):
    """A command of isogloss that makes what the runs need, such as a world or a reward model."""

    run: list[str] = Field(..., min_length=1, description="Arguments of `isogloss`.")
    creates: Path = Field(..., description="A file that it leaves at its end: where it exists, the step is done.")


class StudyContrast(Section):
    """A question to the runs: the change of some rows less that of others, paired by prompt and seed."""

    question: str = Field(..., min_length=1, max_length=300, description="As the page asks it.")
    first: list[str] = Field(..., min_length=1, description="Names of rows.")
    second: list[str] = Field(
        default_factory=list,
        description="Rows that they are compared with, one for each of `first`; with none, each with its own start.",
    )
    measure: MeasureName = Field(
        "greedy",
        description="`greedy` and `sampled`: accuracy. `judged`: win rate against the start (`evaluation.judge`). "
        "`artefacts`: sampled answers with a marker of `evaluation.markers`.",
    )
    languages: str = Field(
        "others",
        description="`seen`: those that some row trains on, but the dominant one. `unseen`: those that no row trains "
        "on. `others`: all but the dominant one. `all`. Or a code.",
    )
    better: Literal["up", "down"] = Field("up", description="The sign of a difference that means yes.")


class StudyConfig(Section):
    """A study. Rows are the product of the axes' values, named `VALUE-VALUE`, and those of `rows`."""

    name: str = Field(..., pattern=_NAME, max_length=60, description="Folder below `dir`.")
    title: str | None = Field(None, max_length=200, description="Of the page; by default the name.")
    dir: Path = Field(Path("runs/studies"), description="Where the study's folder is, with its runs and its matrix.")
    base: str = Field(..., description="Config of all rows: a file beside the study, or a preset.")
    set: list[str] = Field(default_factory=list, description="Overrides of all rows, before their own.")
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field([0], min_length=1, description="`run.seed` of the runs.")
    axes: dict[Name, dict[Name, list[str]]] = Field(
        default_factory=dict, description="Axis -> value -> overrides; a row takes one value of each axis."
    )
    rows: dict[Name, StudyRow] = Field(default_factory=dict, description="Further rows by name.")
    titles: dict[Name, str] = Field(default_factory=dict, description="Titles of rows, of the axes' too.")
    contrasts: list[StudyContrast] = Field(default_factory=list, max_length=200, description="The questions.")
    prepare: list[StudyStep] = Field(default_factory=list, max_length=50, description="Steps before the runs.")
    page: Path | None = Field(None, description="Markdown file for the answers and tables, beside the study's folder.")
    text: str | None = Field(
        None, description="Markdown file, beside the study's, that stands in front of the tables on the page."
    )
    bootstrap_samples: int = Field(5000, ge=100, le=1_000_000, description="Draws of each interval.")

    @model_validator(mode="after")
    def _names(self) -> StudyConfig:
        if len(frozenset(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: a seed is named twice; name each once")
        if not self.axes and not self.rows:
            raise ValueError("rows: there are none; name some, or values of axes")
        for axis, values in self.axes.items():
            if not values:
                raise ValueError(f"axes.{axis}: has no values; add some, or remove the axis")
        names = [*(name for name, _ in self.product()), *self.rows]
        for name, count in Counter(names).items():
            if count > 1:
                raise ValueError(f"rows: '{name}' is the name of two rows; change one, or a value of the axes")
        if len(names) * len(self.seeds) > MOST_RUNS:
            raise ValueError(f"seeds: {len(names)} rows of {len(self.seeds)} seeds are more than {MOST_RUNS} runs")
        for name in self.titles:
            if name not in names:
                raise ValueError(f"titles.{name}: is no row of this study ({_listed(names)})")
        for place, contrast in enumerate(self.contrasts):
            for side in ("first", "second"):
                for position, name in enumerate(getattr(contrast, side)):
                    if name not in names:
                        raise ValueError(
                            f"contrasts.{place}.{side}.{position}: '{shortened(name)}' is no row of this study "
                            f"({_listed(names)})"
                        )
            if contrast.second and len(contrast.second) != len(contrast.first):
                raise ValueError(
                    f"contrasts.{place}.second: has {len(contrast.second)} rows and first {len(contrast.first)}; give "
                    "one for each, or none"
                )
            for one, two in zip(contrast.first, contrast.second, strict=False):
                if one == two:
                    raise ValueError(f"contrasts.{place}.second: '{one}' is compared with itself; name another row")
        return self

    def product(self) -> list[tuple[str, list[str]]]:
        """Name and overrides of each row that the axes make, the first axis slowest."""
        if not self.axes:
            return []
        return [
            ("-".join(value for value, _ in chosen), [override for _, own in chosen for override in own])
            for chosen in itertools.product(*(values.items() for values in self.axes.values()))
        ]

    @property
    def folder(self) -> Path:
        """Of the runs and the matrix."""
        return self.dir / self.name


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


@dataclass(frozen=True)
class PlannedRow:
    """A row as it is run.

    Attributes:
        name: Of its runs, with the seed behind it.
        title: In tables.
        base: The config file.
        overrides: Of all rows and its own; without name, folder and seed.
        config: What that gives, with the first seed.
    """

    name: str
    title: str
    base: Path
    overrides: tuple[str, ...]
    config: Config

    @property
    def trains_on(self) -> frozenset[str]:
        """Languages that it trains on, as its config says."""
        languages = self.config.languages
        wanted = None if languages.quota is None else languages.quota.pairs_per_round
        asked = languages.codes if not isinstance(wanted, dict) else list(wanted)
        return frozenset(code for code in asked if languages.share(code) > 0)


@dataclass(frozen=True)
class Study:
    """A study that was read and checked.

    Attributes:
        config: As the file says.
        rows: In the order of tables.
        path: The file.
    """

    config: StudyConfig
    rows: tuple[PlannedRow, ...]
    path: Path

    @property
    def folder(self) -> Path:
        """Of its runs and its matrix."""
        return self.config.folder

    @property
    def trained(self) -> frozenset[str]:
        """Languages that some row trains on, as the configs say."""
        return frozenset[str]().union(*(row.trains_on for row in self.rows))

    def runs(self) -> list[tuple[PlannedRow, int]]:
        """Rows and seeds as they are run: all rows of a seed first, so that an early page has all of them."""
        return [(row, seed) for seed in self.config.seeds for row in self.rows]


def run_name(row: str, seed: int) -> str:
    """Name of a run, which is its folder's."""
    return f"{row}-s{seed}"


def load_study(path: Path) -> Study:
    """Read a study, and load the config of every row.

    Raises:
        UserError: Names the file with the line, or the field, and the cure.
    """
    file = find_preset(path, _WHAT, _CURE)
    text = read_text(file, _WHAT, _CURE)
    shown = shown_path(file)
    values = load_yaml(text, shown)
    if not isinstance(values, dict):
        raise UserError(f"{shown}: expected fields such as name, base and rows; {_CURE}")
    try:
        config = StudyConfig.model_validate(values)
    except ValidationError as error:
        lines = explained(error, StudyConfig)
        raise UserError(f"{shown}: " + joined([_with_line(text, line) for line in lines])) from None
    rows = tuple(_planned(file, text, config))
    study = Study(config, rows, file)
    _check_alike(study, text)
    for place, contrast in enumerate(config.contrasts):
        _check_contrast(study, text, place, contrast)
    return study


def _planned(file: Path, text: str, config: StudyConfig) -> list[PlannedRow]:
    """All rows with their configs; what is wrong with one is said with its field."""
    found: list[PlannedRow] = []
    wanted: list[tuple[str, str, str | None, list[str], str]] = [
        (name, f"axes ({name})", None, own, name) for name, own in config.product()
    ]
    for name, row in config.rows.items():
        wanted.append((name, f"rows.{name}", row.base, row.set, row.title or name))
    for name, field, base, own, title in wanted:
        overrides = (*config.set, *own)
        for override in overrides:
            if override.partition("=")[0] in _OWN:
                where = "set" if override in config.set else field
                raise _refused(file, text, where, f"'{shortened(override)}': a study sets this itself; remove it")
        source = beside(file, base or config.base)
        try:
            loaded = load_config(source, [*overrides, *own_fields(config, name, config.seeds[0])])
        except UserError as error:
            raise _refused(file, text, field, str(error)) from None
        if loaded.prompts.heldout is None:
            raise _refused(file, text, field, "prompts.heldout is not set, so there is nothing to compare; set it")
        found.append(PlannedRow(name, config.titles.get(name, title), source, overrides, loaded))
    return found


def own_fields(config: StudyConfig, row: str, seed: int) -> list[str]:
    """What the study sets in a run's config, as overrides."""
    return [f"run.name={run_name(row, seed)}", f"run.dir={config.folder}", f"run.seed={seed}"]


def _check_alike(study: Study, text: str) -> None:
    """Refuse two rows of one config, whose difference would be nothing."""
    known: dict[str, str] = {}
    for row in study.rows:
        run = row.config.run.model_copy(update={"name": "run"})
        dumped = row.config.model_copy(update={"run": run}).model_dump_json()
        if dumped in known:
            field = f"rows.{row.name}" if row.name in study.config.rows else "axes"
            raise _refused(
                study.path, text, field, f"'{row.name}' has the same config as '{known[dumped]}'; change one"
            )
        known[dumped] = row.name


def _check_contrast(study: Study, text: str, place: int, contrast: StudyContrast) -> None:
    by_name = {row.name: row for row in study.rows}
    rows = [by_name[name] for name in (*contrast.first, *contrast.second)]
    evaluated = [frozenset(row.config.evaluated) for row in rows]
    code = contrast.languages
    field = f"contrasts.{place}.languages"
    if code == "unseen" and not frozenset[str]().union(*evaluated) - study.trained:
        raise _refused(
            study.path, text, field, "unseen: every evaluated language is trained on; add evaluation.languages"
        )
    if code not in ("seen", "unseen", "others", "all"):
        for row, codes in zip(rows, evaluated, strict=True):
            if code not in codes:
                known = ", ".join(sorted(codes))
                problem = f"'{shortened(code)}' is not evaluated by row '{row.name}' (evaluated: {known})"
                raise _refused(study.path, text, field, f"{problem}; add it to evaluation.languages")
    for row in rows:
        evaluation = row.config.evaluation
        if contrast.measure == "artefacts" and not evaluation.markers:
            problem = f"artefacts: row '{row.name}' has no evaluation.markers to count; set them"
            raise _refused(study.path, text, f"contrasts.{place}.measure", problem)
        if contrast.measure == "judged" and evaluation.judge is None:
            problem = f"judged: row '{row.name}' has no evaluation.judge; set it"
            raise _refused(study.path, text, f"contrasts.{place}.measure", problem)


def _refused(file: Path, text: str, field: str, problem: str) -> UserError:
    return UserError(f"{shown_path(file)}: " + _with_line(text, f"{field}: {problem}"))


def _with_line(text: str, problem: str) -> str:
    """``field: problem`` with the line of the file behind the field, as far as the field is there."""
    field = problem.partition(": ")[0]
    line = line_of(text, re.split(r"\.|\s", field))
    return problem if line is None else f"line {line}: {problem}"


def line_of(text: str, path: Sequence[str]) -> int | None:
    """The line, from 1, of the deepest part of a path of keys and positions that a YAML text has; None without any."""
    node: Any = YAML(typ="rt", pure=True).compose(text)
    line: int | None = None
    for part in path:
        if isinstance(node, MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == part), None)
            if entry is None:
                break
            key, node = entry
            line = key.start_mark.line + 1
        elif isinstance(node, SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line
