"""The ``isogloss`` command. Also what ``ray job submit -- isogloss train CONFIG`` runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import UserError

app = typer.Typer(
    help="Online and iterative preference alignment of multilingual language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

USER_ERROR_EXIT = 2
INTERRUPTED_EXIT = 130


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, e.g. configs/demo.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print config and placement; start nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run folder.")] = False,
    resume_or_start: Annotated[
        bool, typer.Option("--resume-or-start", help="As --resume where the run folder is there, else a new run.")
    ] = False,
    cluster: Annotated[Path | None, typer.Option(help="With --dry-run: file that lists a cluster's nodes.")] = None,
) -> None:
    """Run the rounds of a config and report accuracy before and after, by language."""
    from actors.job import adapt_to_job
    from configs.load import dump_yaml, load_config

    resolved = adapt_to_job(load_config(config, overrides or []), os.environ, Path.cwd())
    if dry_run:
        from actors.placement import PlacementPlan
        from actors.screen import print_plan

        print(dump_yaml(resolved), end="")
        plan = PlacementPlan.from_config(resolved)
        print_plan(plan)
        if cluster is not None:
            from actors.screen import print_nodes
            from configs.nodes import load_cluster

            print_nodes(plan, load_cluster(cluster).resources())
        return
    if cluster is not None:
        raise UserError("--cluster: only describes a cluster for --dry-run; cluster.address names one to run on")
    from actors.env import apply_driver_env

    apply_driver_env()
    from actors.run import run_training

    folder = resolved.run.dir / resolved.run.name
    finished = run_training(resolved, resume=resume or (resume_or_start and (folder / "config.yaml").is_file()))
    if not finished:
        raise typer.Exit(INTERRUPTED_EXIT)


@app.command()
def submit(
    config: Annotated[Path, typer.Argument(help="YAML file below the working directory.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value …")] = None,
    address: Annotated[
        str | None, typer.Option(help="URL of the dashboard; default RAY_ADDRESS, or http://127.0.0.1:8265.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log; ctrl-C detaches.")] = True,
) -> None:
    """Run a config as a Ray job; the same line again goes on with a run that was stopped."""
    from actors.env import apply_driver_env

    apply_driver_env()
    from actors.submit import submit_run

    if not submit_run(config, overrides or [], address, wait, lambda text: print(text, end="", flush=True)):
        raise typer.Exit(INTERRUPTED_EXIT)


@app.command("build-world")
def build_world(
    languages: Annotated[Path, typer.Option(help="Folder of language files.")] = Path("worlds/languages"),
    out: Annotated[Path, typer.Option(help="Folder to write the world to.")] = Path("worlds/default"),
    seed: Annotated[int, typer.Option(help="Everything that is random follows from it.")] = 0,
) -> None:
    """Make the embedded world: prompts, tokenizer, reference and English-aligned policy. Minutes on a CPU."""
    from worlds.build import build_world as build

    build(languages, out, seed)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the parquet files; default RUN/export.")] = None,
) -> None:
    """Write a run's candidates, scores and pairs as parquet files."""
    from rollout.store import Store
    from rollout.store_export import export_parquet

    path = run / "store.sqlite"
    if not path.is_file():
        raise UserError(f"{run}: no store.sqlite in it; name a run folder such as runs/demo")
    with Store.read(path) as store:
        for written in export_parquet(store, out or run / "export").values():
            print(written)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    compare: Annotated[list[Path] | None, typer.Option(help="Another run to show beside it; may be repeated.")] = None,
    format: Annotated[str, typer.Option(help="html: one file that needs nothing else. md: printed.")] = "html",
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default RUN/report.html.")] = None,
) -> None:
    """Show what a run did: uplift by language, curves, gates, lengths, time, and its pairs."""
    from evaluation.report import render_report, write_report

    if format == "html":
        print(write_report(run, compare or [], out))
    else:
        print(render_report(run, compare or [], format), end="")


@app.command("win-rate")
def win_rate(
    annotations: Annotated[list[Path], typer.Argument(help="CSV files, one a model, with a judge's preferences.")],
    others: Annotated[Path | None, typer.Option(help="Folder of other models' files, for item difficulty.")] = None,
    language: Annotated[str, typer.Option(help="BCP-47 code of the prompts.")] = "en",
) -> None:
    """Win rates and length-controlled win rates of a judge's preferences, with intervals."""
    from evaluation.annotations import annotation_table, render_table

    print(render_table(annotation_table(annotations, others, language)))


@app.command("config-reference")
def config_reference(
    out: Annotated[Path, typer.Option(help="Folder for config.md and config.schema.json.")] = Path("docs"),
) -> None:
    """Generate the reference page and the JSON schema of the config."""
    from configs.reference import write_reference

    for written in write_reference(out):
        print(written)


def main() -> None:
    """Entry point: a user's mistake ends in one message and exit code 2, never in a traceback."""
    try:
        app()
    except UserError as error:
        print(f"isogloss: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT)


if __name__ == "__main__":
    main()
