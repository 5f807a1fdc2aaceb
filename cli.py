"""The ``isogloss`` command. Also what ``ray job submit -- isogloss train CONFIG`` runs."""

from __future__ import annotations

import importlib.util
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

USER_ERROR_EXIT = 2
_DRIVERS = ("train", "build-data", "eval", "audit-reward", "serve")  # commands that may start Ray
_ROOMS = ("configs", "rollout", "evaluation", "judges", "learners", "actors", "serving", "worlds")


def _check_rooms() -> None:
    """Refuse to start where another package of the same name comes first: its modules would be taken for ours."""
    here = Path(__file__).resolve().parent
    for room in _ROOMS:
        spec = importlib.util.find_spec(room)
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        found = [Path(place) for place in places if place is not None]
        if not any(place.resolve().is_relative_to(here / room) for place in found):
            where = f"is hidden by another of that name, {found[0]}" if found else "is not installed"
            print(
                f"isogloss: its package '{room}' {where}; install isogloss in an environment of its own, or take what "
                "hides it off PYTHONPATH",
                file=sys.stderr,
            )
            sys.exit(USER_ERROR_EXIT)


_check_rooms()

from actors.evals.commands import INTERRUPTED_EXIT, commands  # noqa: E402
from actors.runtime.guardian import guard  # noqa: E402
from actors.runtime.last_words import tell  # noqa: E402
from configs.errors import Stopped, UserError  # noqa: E402
from configs.gc_tuning import keep  # noqa: E402
from configs.json_types import JsonObject  # noqa: E402

app = typer.Typer(
    help="Online and iterative preference alignment of multilingual language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(commands)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, or the name of a preset, e.g. demo.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print config and placement; start nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue with an unfinished run folder.")] = False,
    resume_or_start: Annotated[
        bool, typer.Option("--resume-or-start", help="As --resume where the run folder is there, else a new run.")
    ] = False,
    from_round: Annotated[
        int | None, typer.Option(min=0, help="With --resume: go back to the weights after this round; 0 is the start.")
    ] = None,
    allow_changed: Annotated[
        str, typer.Option(help="With --resume: fields, separated by commas, that may differ from the run's config.")
    ] = "",
    cluster: Annotated[Path | None, typer.Option(help="With --dry-run: file that lists a cluster's nodes.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show nothing but the line at the end, and errors.")] = False,
) -> None:
    """Run the rounds of a config and report accuracy before and after, by language."""
    from actors.jobs.job import adapt_to_job
    from configs.load import dump_yaml, load_config
    from rollout.hub import resolved as at_snapshots

    resolved = at_snapshots(adapt_to_job(load_config(config, overrides or []), os.environ, Path.cwd()))
    if dry_run:
        print(dump_yaml(resolved), end="")
        from actors.train.dry_run import show

        show(resolved, cluster)
        return
    if cluster is not None:
        raise UserError("--cluster: only describes a cluster for --dry-run; cluster.address names one to run on")
    from actors.runtime.env import apply_driver_env

    apply_driver_env()
    from actors.train.run import run_training

    folder = resolved.run.dir / resolved.run.name
    go_on = resume or (resume_or_start and (folder / "config.yaml").is_file())
    allowed = frozenset(name.strip() for name in allow_changed.split(",") if name.strip())
    if (from_round is not None or allowed) and not go_on:
        raise UserError("--from-round, --allow-changed: only where a run continues; add --resume")
    options: JsonObject = {"from_round": from_round, "allowed": allowed, "quiet": quiet}
    if resolved.serve.enabled:
        from serving.follow import follow

        options["follow"] = follow
    finished = run_training(resolved, go_on, **options)
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
    """Run a config as a Ray job; the same line again continues a run that was stopped."""
    from actors.runtime.env import apply_driver_env

    apply_driver_env()
    from actors.jobs.submit import submit_run

    if not submit_run(config, overrides or [], address, wait, lambda text: print(text, end="", flush=True)):
        raise typer.Exit(INTERRUPTED_EXIT)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the parquet files; default RUN/export.")] = None,
) -> None:
    """Write a run's candidates, scores and pairs as parquet files."""
    from rollout.run_layout import JOURNAL
    from rollout.store import Store
    from rollout.store_export import export_parquet

    if not (path := run / JOURNAL).is_file():
        raise UserError(f"{run}: no store.sqlite in it; name a run folder such as runs/demo")
    damage: list[UserError] = []
    with Store.read(path) as store:
        print(*export_parquet(store, out or run / "export", damage).values(), sep="\n")
    if damage:
        raise UserError(f"{len(damage)} damaged rows were left out of the files above, the first one: {damage[0]}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="A run folder: its newest checkpoint is uploaded.")],
    repo: Annotated[str, typer.Argument(help="owner/name of a model repository on the Hub.")],
    create: Annotated[bool, typer.Option("--create", help="Make the repository, private, if it is missing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the model card and the files; send nothing.")
    ] = False,
) -> None:
    """Upload a run's newest checkpoint to the Hub, with a model card made from its config and summary."""
    from evaluation.model_card import run_card
    from rollout.hub_push import push_checkpoint, pushed_checkpoint

    folder, version = pushed_checkpoint(run)
    card = run_card(run, version, repo)
    if dry_run:
        print(card)
    address = push_checkpoint(folder, repo, card, create=create, dry_run=dry_run, say=print)
    print(f"would be pushed to {repo}; nothing was sent" if address is None else f"pushed: {address}")


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


@app.command()
def status(run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")]) -> None:
    """Say where a run stands, its last figures and what it waits for."""
    from evaluation.status import status_lines

    print("\n".join(status_lines(run)))


@app.command()
def pairs(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    language: Annotated[str | None, typer.Option(help="Only pairs in this language.")] = None,
    round: Annotated[int | None, typer.Option(min=1, help="Default: the last round that has pairs.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 5,
) -> None:
    """Show pairs of a run to read: prompt, chosen, rejected."""
    from evaluation.status import pair_lines
    from rollout.languages import language_code

    code = None if language is None else language_code(language) or language
    print("\n".join(pair_lines(run, code, round, count)))


@app.command("audit-reward")
def audit_reward(
    config: Annotated[Path, typer.Argument(help="YAML file, a preset, or a run folder (its policy): whose reward.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value …")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Labelled pairs, as offline.path; may be repeated, joined by id.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; default runs/audit/NAME.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N pairs of each language.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the table alone.")] = False,
) -> None:
    """Say how often a reward prefers the better answer, by language and subset, with its length bias."""
    if not data:
        raise UserError("--data: missing; name pairs such as a folder of M-RewardBench, or the world's anchors")
    from actors.evals.audit import run_audit

    print(run_audit(config, data, overrides or [], out, limit, quiet=quiet), end="")


@app.command("win-rate")
def win_rate(
    annotations: Annotated[list[Path], typer.Argument(help="CSV files, one a model, with a judge's preferences.")],
    others: Annotated[Path | None, typer.Option(help="Folder of other models' files, for item difficulty.")] = None,
    language: Annotated[str, typer.Option(help="BCP-47 code of the prompts.")] = "en",
) -> None:
    """Win rates and length-controlled win rates of a judge's preferences, with intervals."""
    from configs.language_codes import is_code, refusal
    from evaluation.annotations import annotation_table, render_table

    if not is_code(language):
        raise UserError(f"--language: {refusal(language)}")
    left_out: list[str] = []
    table = annotation_table(annotations, others, language, say=left_out.append)
    for line in left_out:
        print(f"isogloss: {line}", file=sys.stderr)
    print(render_table(table))


@app.command()
def serve(
    target: Annotated[Path, typer.Argument(help="A run folder, or a Hugging Face model folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="serve.field=value, cluster.field=value or model.dtype=value …")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="For a model folder: where serving.json is kept; default runs/serving-NAME.")
    ] = None,
) -> None:
    """Serve a run's current policy, or a model, behind an OpenAI-compatible endpoint."""
    from actors.runtime.env import apply_driver_env

    apply_driver_env()
    from serving.command import run_serve

    run_serve(target, overrides or [], state)


_WAIT = typer.Option(help="Seconds to wait for a running endpoint.")


@app.command()
def promote(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    version: Annotated[int, typer.Argument(help="Weight version: the round that made it, 0 is the start.")],
    canary: Annotated[bool, typer.Option("--canary", help="Serve it to serve.canary_share of the requests.")] = False,
    timeout: Annotated[float, _WAIT] = 120.0,
) -> None:
    """Serve a version of a run, now if its endpoint is running, whatever the gate says."""
    from serving.command import run_promote

    run_promote(run, version, canary, timeout)


@app.command()
def rollback(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    timeout: Annotated[float, _WAIT] = 120.0,
) -> None:
    """Serve what was served before, or take the canary away."""
    from serving.command import run_rollback

    run_rollback(run, timeout)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="YAML file: check what this run needs.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value …")] = None,
) -> None:
    """Check this machine for what would go wrong; exit status 1 where anything would."""
    from actors.observe.doctor import failing, run_doctor
    from configs.load import load_config

    findings = run_doctor(None if config is None else load_config(config, overrides or []))
    if failing(findings):
        raise typer.Exit(1)


@app.command("config-reference")
def config_reference(
    out: Annotated[Path, typer.Option(help="Folder for config.md and the JSON schemas.")] = Path("docs"),
) -> None:
    """Generate the reference page and the JSON schema of the config."""
    from configs.reference import write_reference

    for written in write_reference(out):
        print(written)


def main() -> None:
    """Entry point; a command that starts Ray continues in a child of this process (``actors.runtime.guardian``)."""
    if sys.argv[1:2] and sys.argv[1] in _DRIVERS and "--dry-run" not in sys.argv:
        guard()
    run()


def run() -> None:
    """The command in this process: a user's mistake ends in one message and exit code 2, never in a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a prompt in Thai on a terminal that is not in UTF-8
    try:
        app()
    except UserError as error:
        print(f"isogloss: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT)
    except Stopped as stop:
        print(f"isogloss: {stop}", file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT)
    finally:
        tell(over=True)
        keep()  # nothing follows but the end of the process


if __name__ == "__main__":
    main()
