"""Commands that make what runs need, or many runs: worlds, data, reward models, studies. Part of ``cli``."""

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
