"""One start of the command, watched: when its actors are up, what it says, how it ends."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.processes import descendants, left_over

UP = "reward actors are up"
USER_ERROR = 2
LINE_LIMIT = 400  # characters of one line of a message: Ray's own texts have 900

# What may stay in the temporary folder: Ray's logs, what torch compiled (by user, for later runs), and where the
# engine's ranks met, 2 kB that vLLM puts there itself.
_KEPT = re.compile(rf"ray|torchinductor_{re.escape(getpass.getuser())}|vllm_dist_[0-9a-f]+")

# A run of this program in other words than its own.
_FOREIGN = re.compile(
    r"Traceback|RayActorError|ActorDiedError|RaySystemError|The actor is dead because|For further information|"
    r"\(pid=|gcs_server\.out|core_worker|C\d+ \d+ |^\[\d{4}-\d\d-\d\d ",
    re.MULTILINE,
)

# Small and with real work in every part: 3 languages, a chunk of 4 prompts, 4 samples; the world's own tiny model.
OVERRIDES = (
    "languages.codes=[en, es, sw]",
    "rollout.actors=1",
    "rollout.prompts_per_round=24",
    "rollout.chunk_prompts=4",
    "rollout.max_num_seqs=16",  # one chunk: others wait, so that kills find chunks done and undone
    "rollout.samples_per_prompt=4",
    "rollout.kv_cache_gb=0.0625",
    "prompts.heldout_limit=4",
    "evaluation.samples_per_prompt=2",
    "evaluation.bootstrap_samples=200",
    "anchor.pairs_per_round=8",
    "learner.pairs_per_step=4",
    "learner.keep_checkpoints=9",
    "run.min_free_disk_gb=0",  # the small disks of the damages
    "learner.max_failures=50",
    "cluster.max_actor_restarts=50",
    "cluster.start_timeout_s=1200",  # a busy machine is no finding
)


@dataclass(frozen=True)
class Setting:
    """Which run is disturbed.

    Attributes:
        seed: Of the run.
        rounds: How many.
        overrides: Further settings.
        config: Its preset.
    """

    seed: int
    rounds: int = 6
    overrides: tuple[str, ...] = ()
    config: str = "configs/icr.yaml"

    def command(self, run: Path, resume: bool) -> list[str]:
        """Command line that starts the run in folder ``run``, or continues it."""
        return [
            str(Path(sys.executable).with_name("isogloss")),
            "train",
            self.config,
            f"run.dir={run.parent}",
            f"run.name={run.name}",
            f"run.seed={self.seed}",
            f"schedule.rounds={self.rounds}",
            *OVERRIDES,
            *self.overrides,
            *(["--resume"] if resume else []),
        ]


@dataclass
class Start:
    """A running command. Its temporary folder is its own, so that whatever is left there is seen."""

    setting: Setting
    run: Path
    log: Path
    strangers: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.strangers = {os.getpid(), *(one.pid for one in descendants())}
        self.temporary = Path(tempfile.mkdtemp(prefix="chaos", dir="/tmp"))  # short: Ray's sockets lie in it
        resume = (self.run / "config.yaml").is_file()
        self._out, self._err = self.log.with_suffix(".out"), self.log.with_suffix(".err")
        self.begun = time.monotonic()
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                self.setting.command(self.run, resume),
                stdout=out,
                stderr=err,
                start_new_session=True,
                # Ray's workers are otherwise nicer than whatever else runs on the machine.
                env={**os.environ, "TMPDIR": str(self.temporary), "RAY_worker_niceness": "0"},
            )

    @property
    def output(self) -> str:
        """Standard output so far."""
        return self._out.read_text(errors="replace")

    @property
    def errors(self) -> str:
        """Standard error so far."""
        return self._err.read_text(errors="replace")

    @property
    def up(self) -> bool:
        """Whether all actors are."""
        return UP in self.output

    @property
    def ended(self) -> bool:
        """Whether the command has ended."""
        return self.process.poll() is not None

    def wait(self, seconds: float) -> bool:
        """Whether it ends within ``seconds``."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, expected: Sequence[int], patience: float = 20.0) -> list[str]:
        """After the end: what is wrong with the exit code, the messages, or what is left over.

        Args:
            expected: Exit codes that are right.
            patience: Seconds that its other processes get to end.
        """
        problems = []
        if not self.ended:
            self.process.kill()
            self.process.wait()
            problems.append("it hung and was killed")
        code = self.process.returncode
        if code not in expected:
            problems.append(f"exit code {code} instead of {' or '.join(map(str, expected))}")
        problems += wording(self.output, self.errors, code)
        if left := left_over(self.process.pid, self.strangers, patience):
            problems.append(f"left running: {'; '.join(left)}")
        odd = sorted(path.name for path in self.temporary.iterdir() if not _KEPT.fullmatch(path.name))
        if odd:
            problems.append(f"left in the temporary folder: {', '.join(odd)}")
        shutil.rmtree(self.temporary, ignore_errors=True)
        return problems


def wording(output: str, errors: str, code: int) -> list[str]:
    """What is wrong with the messages of a command that ended with ``code``."""
    problems = []
    for name, text in (("output", output), ("errors", errors)):
        if found := _FOREIGN.search(text):
            line = text[text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0]
            problems.append(f"not our words in its {name}: {line[:160]}")
        if long := [line for line in text.splitlines() if len(line) > LINE_LIMIT]:
            problems.append(f"a line of {len(long[0])} characters in its {name}: {long[0][:160]}")
    ours = [line for line in errors.splitlines() if line.startswith("isogloss: ")]
    if code == USER_ERROR:
        if len(ours) != 1:
            problems.append(f"{len(ours)} messages instead of one: {errors[-300:]!r}")
        if "--resume" not in errors:
            problems.append(f"no cure (--resume) in its message: {errors[-300:]!r}")
    return problems
