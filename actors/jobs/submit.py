"""``isogloss submit``: a run as a Ray job, in one line, followed on the terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from actors.jobs.job import SUBMITTED_FROM
from actors.jobs.upload import EXCLUDES, Upload, check_inputs_travel, check_upload, list_upload
from configs.errors import UserError
from configs.load import load_config

if TYPE_CHECKING:  # Ray must not be imported before the environment is set
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CALL_TIMEOUT_S = 60.0  # one request to the job server; the upload is one
END_TIMEOUT_S = 60.0  # from the end of the log to a final status
RECONNECTS = 5  # attempts to get back to a log, without a new word of it between them
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted run."""

    id: str
    address: str
    command: str  # what submits the same run again

    def hints(self) -> str:
        """How to follow, stop and repeat it."""
        ray_job = f"RAY_AUTH_MODE=token ray job {{}} --address {self.address} {self.id}"
        return (
            f"  follow   {ray_job.format('logs --follow')}\n"
            f"  stop     {ray_job.format('stop')}\n"
            f"  resume   {self.command}"
        )


def cluster_address(given: str | None, env: Mapping[str, str]) -> str:
    """URL of the dashboard of the cluster to submit to: as given, else ``RAY_ADDRESS``, else this machine's.

    Raises:
        UserError: It is not a URL.
    """
    address, source = given or env.get("RAY_ADDRESS") or DEFAULT_ADDRESS, "--address" if given else "RAY_ADDRESS"
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"{source}: '{address}' is not the URL of a dashboard; give one such as {DEFAULT_ADDRESS} with --address"
        )
    return address.rstrip("/")


def free_job_id(run: str, known: Mapping[str, str]) -> str:
    """Job id of a run: ``isogloss-RUN``, numbered from the second submission on.

    Args:
        run: Name of the run.
        known: Status of every job of the cluster, by id.

    Raises:
        UserError: The run is still going on in another job.
    """
    base = f"isogloss-{run}"
    earlier = {job: status for job, status in known.items() if re.fullmatch(rf"{re.escape(base)}(\.\d+)?", job)}
    for job, status in earlier.items():
        if status not in FINAL:
            raise UserError(
                f"run.name: '{run}' is {status.lower()} as job {job}; stop it with `ray job stop {job}`, wait for it, "
                "or choose another run.name"
            )
    number = 1 + max((int(job[len(base) + 1 :] or 1) for job in earlier), default=0)
    return base if number == 1 else f"{base}.{number}"


def entrypoint(config: str, overrides: Sequence[str]) -> str:
    """Shell command of the job. ``python -m cli`` takes the uploaded code, or the installed one where none came.

    ``exec``, so that Ray's stop signal reaches one process, once.
    """
    return shlex.join(["exec", "python", "-m", "cli", "train", config, *overrides, "--resume-or-start"])


def within(seconds: float, what: str, work: Callable[[], T]) -> T:
    """Do ``work`` under a deadline: Ray's client sets none for its requests.

    Raises:
        UserError: No answer in time, or the cluster refuses; says which.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"submit: {what}")
    thread.start()
    thread.join(seconds)
    if found:
        return found[0]
    if not failed:
        raise UserError(f"{what}: no answer within {seconds:g} s; is this the dashboard's address?")
    raise UserError(f"{what}: {_cure(failed[0])}") from failed[0]


def _cure(error: BaseException) -> str:
    if "find an authentication token" in str(error):
        return (
            "there is no token here; put the head's (~/.ray/auth_token there) into ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN, or make one for a cluster of this machine with `ray get-auth-token --generate`"
        )
    if "Authentication" in type(error).__name__:
        return (
            "the cluster refuses this token; put the head's (~/.ray/auth_token there) into ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN here"
        )
    if isinstance(error, ConnectionError):
        return "nothing answers there; start a cluster with `ray start --head`, or name another with --address"
    if "No available agent" in str(error):
        return (
            "the head node's agent serves no jobs, which is so when another Ray on that machine has its port; start "
            "the head with --dashboard-agent-listen-port=0"
        )
    return str(error)


class Follower:
    """Prints a job's log as it grows, once, over as many connections as it takes.

    Args:
        client: Has ``tail_job_logs(id)``, which begins at the log's beginning.
        job: Whose.
        write: Gets the new text.
    """

    def __init__(self, client: Any, job: Job, write: Callable[[str], object]) -> None:
        self._client = client
        self._job = job
        self._write = write
        self._printed = 0

    def follow(self) -> None:
        """Until the log ends.

        A job may outlast many outages: attempts are counted anew once the log has grown again.

        Raises:
            UserError: The connection was lost and does not come back.
        """
        attempt = 0
        while True:
            before = self._printed
            try:
                asyncio.run(self._tail())
                return
            except (RuntimeError, OSError) as error:
                attempt = 1 if self._printed > before else attempt + 1
                if attempt >= RECONNECTS:
                    raise UserError(
                        f"{self._job.id}: the connection to its log was lost ({error}) and {RECONNECTS - 1} attempts "
                        f"did not bring it back; the job itself continues\n{self._job.hints()}"
                    ) from error
                time.sleep(min(2.0 ** (attempt - 1), 10.0))

    async def _tail(self) -> None:
        seen = 0
        async for text in self._client.tail_job_logs(self._job.id):
            seen += len(text)
            if seen > self._printed:
                self._write(text[len(text) - (seen - self._printed) :])
                self._printed = seen


def final_status(client: JobSubmissionClient, job: str) -> str:
    """Status of a job whose log has ended; it follows the log within moments."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while True:
        status = str(within(CALL_TIMEOUT_S, f"status of {job}", lambda: client.get_job_status(job)).value)
        if status in FINAL or time.monotonic() > deadline:
            return status
        time.sleep(0.5)


def submit_run(
    config_file: Path, overrides: Sequence[str], address: str | None, wait: bool, write: Callable[[str], object]
) -> bool:
    """Submit a run, or the rest of it, and follow its log; returns whether it is finished or was not waited for.

    Args:
        config_file: YAML file, below the working directory.
        overrides: ``section.field=value``.
        address: Dashboard's URL; None is ``RAY_ADDRESS`` or this machine's.
        wait: Follow the log; ctrl-C then detaches and leaves the job running.
        write: Gets the text to show.

    Raises:
        UserError: Before anything is sent: a bad config, inputs that the job would not find, an upload that is too
            large, no cluster, the run is going on already.
    """
    url = cluster_address(address, os.environ)
    config = load_config(config_file, overrides)
    upload = list_upload(Path.cwd())
    path = check_inputs_travel(config, config_file, upload)
    check_upload(upload)
    from ray.job_submission import JobSubmissionClient

    # What is left out of the upload is said here, and each of Ray's loggers has a level of its own.
    for name in ["ray", *(name for name in logging.root.manager.loggerDict if name.startswith("ray."))]:
        logging.getLogger(name).setLevel(logging.ERROR)
    client = within(CALL_TIMEOUT_S, url, lambda: JobSubmissionClient(url))
    known = within(CALL_TIMEOUT_S, f"{url}: list of jobs", lambda: _statuses(client))
    again = shlex.join(["isogloss", "submit", str(config_file), *overrides, *(["--address", url] if address else [])])
    job = Job(free_job_id(config.run.name, known), url, again)
    write(f"upload   {len(upload.files)} files, {upload.mib:.1f} MiB, of {upload.root}\n")
    if "cli.py" not in upload:
        write("code     as installed on the cluster: there is no cli.py in this folder\n")
    within(CALL_TIMEOUT_S, f"{url}: submitting {job.id}", lambda: _send(client, job.id, upload, path, overrides))
    write(f"job      {job.id} at {url}\n{job.hints()}\n")
    return follow(client, job, write) if wait else True


def _statuses(client: JobSubmissionClient) -> dict[str, str]:
    return {job.submission_id: job.status.value for job in client.list_jobs() if job.submission_id}


def _send(client: JobSubmissionClient, job: str, upload: Upload, config: str, overrides: Sequence[str]) -> None:
    client.submit_job(
        entrypoint=entrypoint(config, overrides),
        submission_id=job,
        runtime_env={
            "working_dir": str(upload.root),
            "excludes": list(EXCLUDES),
            "env_vars": {SUBMITTED_FROM: str(upload.root)},
        },
        metadata={"config": config, "overrides": shlex.join(overrides)},
    )


def follow(client: JobSubmissionClient, job: Job, write: Callable[[str], object]) -> bool:
    """Show a job's log until it ends; returns whether it is finished or continues without us (ctrl-C).

    Raises:
        UserError: The job failed, or its log could not be followed.
    """
    try:
        Follower(client, job, write).follow()
        status = final_status(client, job.id)
    except KeyboardInterrupt:
        write(f"\ndetached: {job.id} continues\n{job.hints()}\n")
        return True
    if status == "FAILED":
        info = within(CALL_TIMEOUT_S, f"end of {job.id}", lambda: client.get_job_info(job.id))
        # Ray's message ends with the log's last lines, which were just shown.
        reason = (info.message or "").partition(", last available logs")[0]
        raise UserError(
            f"{job.id} failed: {reason}\n  its log is above; once that is fixed, continue with: {job.command}"
        )
    if status not in FINAL:
        raise UserError(
            f"{job.id}: its log has ended, but after {END_TIMEOUT_S:g} s it is still {status.lower()}; it was "
            f"not waited for any longer\n{job.hints()}"
        )
    write(f"{job.id}: {status.lower()}{'' if status == 'SUCCEEDED' else f'; continue with: {job.command}'}\n")
    return status == "SUCCEEDED"
