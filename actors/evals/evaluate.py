"""``isogloss eval``: a suite's prompts, one or two systems' answers, a judge's verdicts, and the figures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
from rich.table import Table

from actors.machine.checks import slow_arithmetic
from actors.observe.screen import Screen, console
from configs.atomic import write_json
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.load import load_section
from configs.model_config import AUTO, check_dtype
from configs.schema import PromptsConfig
from evaluation.fidelity import confusion
from evaluation.suites.answers import read_answers, write_answers
from evaluation.suites.cache import EvalCache
from evaluation.suites.detect import fidelities
from evaluation.suites.figures import (
    Figure,
    Marks,
    accuracy_figures,
    difference_figures,
    fidelity_figures,
    length_figures,
    mark,
    missing,
    pass_figures,
    win_figures,
)
from evaluation.suites.read import FREE, load_suite
from evaluation.suites.records import JUDGED, Answers, Decoding, Suite
from evaluation.suites.result import confusion_table, figures_json, markdown, tables
from evaluation.suites.sources import Source, resolve
from evaluation.suites.verdicts import RESULT, VERDICTS, read_others, write_verdicts
from evaluation.suites.weights import model_checksum
from evaluation.winrate import Comparison
from rollout.language import answer_part
from rollout.model_folder import check_engine_files, verify_checkpoint

if TYPE_CHECKING:
    from actors.evals.generate import Machine
    from configs.judge import JudgeConfig

FORMATS = ("table", "md", "json")
_NEW_TOKENS = {"world": 32, "mgsm": 512, "language-confusion": 100}  # the last as published
_OTHER_NEW_TOKENS = 1024
# Of the config section `prompts`, beside frame and system turn: for suites of the user's own.
_FIELDS = ("format", "id_field", "text_field", "system_field", "language_field", "answer_field")


@dataclass(frozen=True)
class EvalRequest:
    """The command's arguments; docs/evaluation.md says what each is for."""

    suite: str
    model: str | None = None
    data: str | None = None
    against: str | None = None
    answers: Path | None = None
    languages: tuple[str, ...] = ()
    judge: Path | None = None
    prompts: Path | None = None
    overrides: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()
    out: Path | None = None
    cache: Path = Path("runs/.cache")
    limit: int | None = None
    shots: int = 0
    max_new_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    dtype: str = AUTO
    format: str = "table"
    machine: JsonObject = field(default_factory=dict)  # of actors.evals.generate.Machine, which imports Ray


@dataclass(frozen=True)
class _System:
    """A system with its answers."""

    source: Source
    decoding: Decoding | None  # None: from a file
    checksum: str | None  # of the model
    answers: Answers
    generated: int

    def facts(self) -> JsonObject:
        """What ``result.json`` says of it."""
        digest = xxhash.xxh3_128()
        for key, answer in sorted(self.answers.items()):
            digest.update(json.dumps([*key, answer.text]).encode())
        return {
            "name": self.source.name,
            "path": str(self.source.folder or self.source.file),
            "checksum": self.checksum,
            "decoding": None if self.decoding is None else asdict(self.decoding),
            "answers": digest.hexdigest(),
            "generated": self.generated,
            "cached": 0 if self.decoding is None else len(self.answers) - self.generated,
        }


def run_eval(request: EvalRequest) -> Path:
    """Evaluate, show the figures, write them; returns the folder of ``result.json``.

    Neither Ray nor vLLM is imported where the cache has all answers.

    Raises:
        UserError: Anything that the user can fix.
        Stopped: Ctrl-C or SIGTERM during generation; the cache has what was answered.
    """
    begun = time.time()
    if request.format not in FORMATS:
        raise UserError(f"--format {request.format}: unknown; use {', '.join(FORMATS)}")
    check_dtype(request.dtype, f"--dtype {request.dtype}:")
    sources = _sources(request)
    prompts = _prompts(request)
    suite = load_suite(
        request.suite,
        request.data,
        languages=request.languages,
        limit=request.limit,
        shots=request.shots,
        prompts=prompts,
    )
    judge = _judge(request)
    if len(sources) > 1 and judge is None and not suite.has_gold:
        raise UserError(
            "--against: these prompts have no gold answers to compare by; use --suite head-to-head --judge FILE"
        )
    screen = Screen(quiet=request.format != "table")
    out = request.out or Path("runs/eval") / f"{suite.name}-{'-vs-'.join(source.name for source in sources)}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be created ({error.strerror}); name another folder") from None
    with EvalCache.open(request.cache / "eval.sqlite") as cache:
        systems = [_system(source, suite, request, cache, screen, out=out) for source in sources]
        found = fidelities(systems[0].answers, sorted({*suite.languages, "en"}), cache)
    marks = [mark(suite, system.answers) for system in systems] if suite.has_gold else []
    figures = _accuracies(suite, systems, marks)
    verdicts: list[Comparison] = []
    model, against = systems[0].facts(), systems[1].facts() if len(systems) > 1 else None
    if judge is not None and against is not None:
        others = read_others(request.others, suite.name, against["answers"])
        verdicts, errors = _judged(suite, systems, judge, request, screen)
        figures += win_figures(verdicts, others)
        write_verdicts(out / VERDICTS, verdicts, errors)
    if suite.name == "language-confusion":
        figures += pass_figures(suite, systems[0].answers, found)
    figures += fidelity_figures(suite, found) + length_figures(suite, systems[0].answers)
    asked = confusion((key[0], fidelity.detected) for key, fidelity in found.items())
    result = {
        "suite": suite.name,
        "data": suite.data,
        "languages": list(suite.languages),
        "shots": suite.shots,
        "frame": prompts.frame,
        "system": prompts.system,
        "prompts": {code: len(suite.of(code)) for code in suite.languages},
        "model": model,
        "against": against,
        "judge": None if judge is None else judge.model_dump(mode="json", exclude={"api_key_env", "cache"}),
        "figures": figures_json(figures),
        "missing": missing(figures),
        "confusion": asked,
        "seconds": round(time.time() - begun, 2),
    }
    _write(out, suite, systems, marks, found, result=result)
    _show(request.format, suite, systems, figures, asked, result=result, out=out)
    return out


def _sources(request: EvalRequest) -> list[Source]:
    if request.model is None and request.answers is None:
        raise UserError("name a model folder, a run folder or a file of answers (or --answers FILE)")
    judged = request.judge is not None or bool(_of(request, "judge"))
    if request.suite == "head-to-head" and request.against is None:
        raise UserError("--suite head-to-head: needs --against with the other model, run or file of answers")
    if judged and request.suite not in JUDGED:
        raise UserError(f"--judge: {request.suite} is not judged; use --suite {' or '.join(JUDGED)}")
    if judged and request.against is None:
        raise UserError("--judge: a win rate needs --against with the answers to compare with")
    if request.against is not None and request.suite in JUDGED and not judged:
        raise UserError(f"--against: --suite {request.suite} needs a judge to compare answers; add --judge FILE.yaml")
    if request.others and not judged:
        raise UserError("--others: only a judged evaluation uses it; add --judge and --against, or leave it out")
    if request.answers is not None:
        name = Path(request.model).name if request.model is not None else request.answers.stem
        first = Source(name, file=request.answers)
    else:
        first = resolve(request.model or "", "MODEL")
    return [first, *([] if request.against is None else [resolve(request.against, "--against")])]


def _of(request: EvalRequest, section: str) -> tuple[str, ...]:
    """The overrides of one of the two config sections that an evaluation has."""
    strange = [text for text in request.overrides if not text.startswith(("judge.", "prompts."))]
    if strange:
        raise UserError(
            f"'{strange[0]}': only judge.field=value and prompts.field=value may follow the model, "
            "e.g. judge.model=NAME"
        )
    return tuple(text for text in request.overrides if text.startswith(f"{section}."))


def _prompts(request: EvalRequest) -> PromptsConfig:
    """Frame and system turn, and the names of fields of a suite of the user's own."""
    overrides = _of(request, "prompts")
    allowed = ("frame", "system", *(_FIELDS if request.suite in FREE else ()))
    for text in overrides:
        name = text.partition("=")[0].removeprefix("prompts.")
        if name.partition(".")[0] not in allowed:
            known = ", ".join(f"prompts.{one}" for one in allowed)
            raise UserError(f"prompts.{name}: --suite {request.suite} takes {known} alone")
    return load_section(request.prompts, "prompts", PromptsConfig, overrides)


def _judge(request: EvalRequest) -> JudgeConfig | None:
    overrides = _of(request, "judge")
    if request.judge is None and not overrides:
        return None
    from configs.judge import JudgeConfig

    judge = load_section(request.judge, "judge", JudgeConfig, overrides)
    if judge.unset:
        raise UserError(f"judge.{judge.unset}: is missing; name the judge that is to be asked")
    return judge


def _system(
    source: Source, suite: Suite, request: EvalRequest, cache: EvalCache, screen: Screen, *, out: Path
) -> _System:
    if source.file is not None:
        return _System(source, None, None, read_answers(source.file, suite), 0)
    assert source.folder is not None
    tokens = request.max_new_tokens or _NEW_TOKENS.get(suite.name, _OTHER_NEW_TOKENS)
    decoding = Decoding(
        request.temperature,
        1.0,
        tokens,
        source.dtype if request.dtype == AUTO else request.dtype,
        source.add_bos,
        request.seed,
        source.template_date,
        source.chat_template,
        source.template_values,
    )
    checksum = model_checksum(source.folder, cache)
    keys = {item.key: decoding.key(checksum, item) for item in suite.items}
    known = cache.get_answers(list(keys.values()))
    missing = {key for key, kept in keys.items() if kept not in known}
    if missing:
        from actors.runtime.env import apply_driver_env

        apply_driver_env()  # before Ray is imported
        from actors.evals.generate import Machine, generate

        verify_checkpoint(source.folder, weights_only=True)
        check_engine_files(source.folder)
        screen.say(f"{source.name}: {len(missing)} of {len(keys)} answers are not in {cache.path}")
        machine: Machine = Machine(**request.machine)
        if (note := slow_arithmetic(decoding.dtype, machine.gpus > 0)) is not None:
            screen.say(note)

        def keep(answers: Answers) -> None:
            cache.put_answers({keys[key]: answer for key, answer in answers.items()})

        generate(suite, source.folder, decoding, machine, missing, screen=screen, keep=keep, logs=out)
        known = cache.get_answers(list(keys.values()))
    return _System(source, decoding, checksum, {key: known[kept] for key, kept in keys.items()}, len(missing))


def _accuracies(suite: Suite, systems: Sequence[_System], marks: Sequence[Marks]) -> list[Figure]:
    if not marks:
        return []
    figures = accuracy_figures(suite, systems[0].answers, marks[0])
    return figures + (difference_figures(suite, marks[0], marks[1]) if len(marks) > 1 else [])


def _judged(
    suite: Suite, systems: Sequence[_System], judge: JudgeConfig, request: EvalRequest, screen: Screen
) -> tuple[list[Comparison], dict[tuple[str, str], str]]:
    """Verdicts with the model as 2 and the other system as 1, and why some are missing, by (language, id)."""
    from judges import Item, compare

    ours, theirs = (system.answers for system in systems)
    items = [
        Item(
            item.id,
            item.language,
            item.instruction,
            answer_part(ours[item.key].text),
            answer_part(theirs[item.key].text),
        )
        for item in suite.items
    ]
    screen.say(f"judging {len(items)} pairs of answers")
    path = judge.cache or request.cache / "judge.sqlite"
    said = compare(items, judge, path)
    verdicts = [
        Comparison(
            v.id,
            v.language,
            None if v.preference is None else 1 + v.preference,
            len(theirs[v.language, v.id].text),
            len(ours[v.language, v.id].text),
            v.inconsistent,
        )
        for v in said
    ]
    return verdicts, {(v.language, v.id): v.error or "no verdict" for v in said if v.failed}


def _write(
    out: Path, suite: Suite, systems: Sequence[_System], marks: Sequence[Marks], found: Any, *, result: JsonObject
) -> None:
    for place, (system, name) in enumerate(zip(systems, ("answers", "answers-against"), strict=False)):
        extras: dict[tuple[str, str], dict[str, object]] = {key: {} for key in system.answers}
        for key, row in extras.items():
            if marks:
                row["right"] = marks[place].right[key]
                if marks[place].extracted:
                    row["extracted"] = marks[place].extracted[key]
            if place == 0:
                fidelity = found[key]
                row |= {"detected": fidelity.detected, "lines": len(fidelity.lines)}
                row |= {"wrong_lines": fidelity.wrong_lines, "switches": fidelity.switches}
        write_answers(out / f"{name}.jsonl", suite, system.answers, extras)
    write_json(out / RESULT, result)


def _show(
    format: str,
    suite: Suite,
    systems: Sequence[_System],
    figures: Sequence[Figure],
    asked: dict[str, dict[str, int]],
    *,
    result: JsonObject,
    out: Path,
) -> None:
    title = f"{suite.name}: {' against '.join(system.source.name for system in systems)}"
    if format == "json":
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    facts = [f"{len(suite.items)} prompts in {', '.join(suite.languages)} from {suite.data}"]
    for system in systems:
        how = "from a file"
        if system.decoding is not None:
            decoding = system.decoding
            drawn = f"temperature {decoding.temperature:g}, seed {decoding.seed}"
            kind = drawn if decoding.temperature else "greedy"
            how = f"{kind}, at most {decoding.max_new_tokens} new tokens, {decoding.dtype}, {system.generated} made now"
        facts.append(f"{system.source.name}: {how}")
    facts += result["missing"]
    facts.append("intervals: Wilson for one yes or no a prompt, else bootstrap over prompts; all: mean over languages")
    found = [*tables(figures), confusion_table(asked)]
    if format == "md":
        print(markdown(title, facts, found), end="")
        return
    console.print(title, style="bold", markup=False)
    for fact in facts:
        console.print(f"  {fact}", markup=False)
    for name, heads, rows in found:
        table = Table(title=name, title_justify="left")
        for place, head in enumerate(heads):
            table.add_column(head, justify="right" if place else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"{out / RESULT}   took {result['seconds']:.1f} s", markup=False)
