"""Commands that make what runs need, that run many of them, or that measure. Part of ``cli``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.errors import UserError

INTERRUPTED_EXIT = 130
commands = typer.Typer()


@commands.command()
def study(
    file: Annotated[Path, typer.Argument(help="YAML file of a study, or the name of one: studies/dang.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it and show its runs; start nothing.")] = False,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; may be repeated.")] = None,
    address: Annotated[
        str | None, typer.Option(help="URL of a dashboard: the runs are submitted there as Ray jobs, one by one.")
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Run nothing; make the matrix of what is there.")] = False,
) -> None:
    """Run a grid of configs and seeds, and compare its runs in one matrix; what is finished is not run again."""
    from actors.runtime.env import apply_driver_env

    apply_driver_env()
    from actors.jobs.study import StudyRequest, run_study

    if not run_study(StudyRequest(file, tuple(row or ()), tuple(seed or ()), address, dry_run, tables)):
        raise typer.Exit(1)


@commands.command("build-world")
def build_world(
    out: Annotated[Path, typer.Option(help="Folder to write the world to; files in it are replaced.")],
    languages: Annotated[Path, typer.Option(help="Folder of language files.")] = Path("worlds/languages"),
    seed: Annotated[int, typer.Option(help="Everything that is random follows from it.")] = 0,
    crosslingual_rate: Annotated[
        float, typer.Option(help="How often answers under an English instruction are true, 0 to 1.")
    ] = 0.97,
) -> None:
    """Make the embedded world: prompts, tokenizer, reference and English-aligned policy. Minutes on a CPU."""
    from worlds.build import build_world as build
    from worlds.settings import WorldSettings

    build(languages, out, seed, WorldSettings(crosslingual_right_rate=crosslingual_rate))


@commands.command("build-translations")
def build_translations(
    out: Annotated[Path, typer.Option(help="Folder to write to; files in it are replaced.")],
    world: Annotated[
        Path | None, typer.Option(help="An embedded world of isogloss build-world; default the one that comes along.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Everything that is random follows from it.")] = 0,
) -> None:
    """Over the embedded world: direct and translated answers, preference pairs, and a policy that learned from both."""
    from worlds.build import DEFAULT_OUT
    from worlds.translations import build_translations as build

    build(world or DEFAULT_OUT, out, seed)


@commands.command("build-data")
def build_data(
    config: Annotated[Path, typer.Argument(help="YAML file, or the name of a preset.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value …")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the data set; one that was begun is continued.")] = Path("data"),
) -> None:
    """Build preference pairs without training: sample, score, mine; parquet that TRL reads, and a data card."""
    from configs.load import load_config

    loaded = load_config(config, overrides or [])
    from actors.runtime.env import apply_driver_env

    apply_driver_env()
    from actors.train.build_data import run_build_data

    if not run_build_data(loaded, out):
        raise typer.Exit(INTERRUPTED_EXIT)


@commands.command("train-reward")
def train_reward(
    model: Annotated[str, typer.Argument(help="Folder (or hf: name) of a language model, or of a reward model.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="training.field=value …")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Pairs, as offline.path, or a folder of build-data; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the reward model.")] = Path("reward-model"),
    language: Annotated[str, typer.Option(help="Language of rows that do not say theirs.")] = "en",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the table alone.")] = False,
) -> None:
    """Train a reward model from preference pairs, and say how often it is right, by language, on held-out prompts."""
    if not data:
        raise UserError("--data: missing; name preference pairs, such as a folder of isogloss build-data")
    from configs.language_codes import is_code, refusal

    if not is_code(language):
        raise UserError(f"--language: {refusal(language)}")
    from actors.evals.train_reward import RewardRequest, run_train_reward

    print(run_train_reward(RewardRequest(model, data, out, tuple(overrides or ()), language, quiet)), end="")


@commands.command("eval")
def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="A model folder, a run folder (its policy), or a file of answers.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="judge.field=value prompts.field=value …")] = None,
    suite: Annotated[
        str,
        typer.Option(help="world, mgsm, x-alpacaeval, m-arenahard, aya, language-confusion, head-to-head or custom."),
    ] = "world",
    data: Annotated[str | None, typer.Option(help="Prompts: a folder, a path with {lang}, or one file.")] = None,
    against: Annotated[str | None, typer.Option(help="The other model, run or file of answers.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Answers of the model; nothing is generated.")] = None,
    languages: Annotated[str, typer.Option(help="Codes, separated by commas; default all that the suite has.")] = "",
    judge: Annotated[Path | None, typer.Option(help="YAML file with the judge's settings (section `judge`).")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="YAML file with frame, system turn and names of fields (section `prompts`).")
    ] = None,
    others: Annotated[
        list[Path] | None, typer.Option(help="Result folder of another model on the same suite, for item difficulty.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; default runs/eval/SUITE-MODEL.")] = None,
    format: Annotated[str, typer.Option(help="table, md or json.")] = "table",
    cache: Annotated[Path, typer.Option(help="Folder of kept answers and verdicts.")] = Path("runs/.cache"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N prompts of each language.")] = None,
    shots: Annotated[int, typer.Option(min=0, help="mgsm: worked examples before each question, 0 to 3.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; default by suite.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampled answers.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto (as the run or the model says), float32 or bfloat16.")] = "auto",
    actors: Annotated[int, typer.Option(min=1, help="Rollout actors.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each actor.")] = 0.0,
    kv_cache_gb: Annotated[float, typer.Option(help="Key-value cache of each actor, GiB.")] = 0.5,
) -> None:
    """Evaluate a model on a suite, by language; answers are kept, so that a repeat starts nothing."""
    from actors.evals.evaluate import EvalRequest, run_eval

    changes = list(overrides or ())
    if model is not None and model.startswith(("judge.", "prompts.")):
        changes, model = [model, *changes], None
    request = EvalRequest(
        suite,
        model,
        data=data,
        against=against,
        answers=answers,
        languages=tuple(code.strip() for code in languages.split(",") if code.strip()),
        judge=judge,
        prompts=prompts,
        overrides=tuple(changes),
        others=tuple(others or ()),
        out=out,
        cache=cache,
        limit=limit,
        shots=shots,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        dtype=dtype,
        format=format,
        machine={"actors": actors, "gpus": gpus, "kv_cache_gib": kv_cache_gb},
    )
    run_eval(request)
