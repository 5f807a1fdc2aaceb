"""The learner as the driver sees it: start, reference, train, weights, close, each with a deadline.

Behind it is one Ray Train run that lives as long as the group: starting one a round would cost more than a
round. A rank that dies takes the group down; Ray Train starts it again, it loads the last round's checkpoint
and does the pending command once more, so the call in flight takes longer and nothing else happens.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from configs.json_types import JsonObject
from configs.running import COLLECTIVE_TIMEOUT_S
from configs.schema import Config
from learners.checkpoint_layout import published_file
from learners.entry import train_loop
from learners.errors import LearnerFailed, LearnerTimeout, reason_of
from learners.loop_config import LoopConfig
from learners.mailbox import CommandKind, Mailbox, Outcome
from learners.manifest import WeightsManifest
from learners.metrics import RoundMetrics
from learners.published import Snapshot
from learners.rendezvous import Rendezvous
from learners.sampler_reference import Referenced
from rollout.records import Example

if TYPE_CHECKING:
    from learners.trainer import EndableTrainer

logger = logging.getLogger(__name__)

# The least that a rank's process needs where no GPU is lent; the caller may pass more.
CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu"}
# And where all ranks are on this machine: elsewhere they could not be reached through it.
LOOPBACK_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo"}

# One poll of the mailbox, and what a reply may take beyond it.
_POLL_S = 1.0
_REPLY_S = 30.0

# How long ranks that are asked to leave get for it; those in the middle of a round give it up after 5 s of this.
_LEAVE_S = 15.0

_MAILBOX = "-learner-mailbox-"

# A rank speaks twice a second; one that has not for so long is dead, cut off, or has no place yet.
_SILENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A trained round.

    ``weights`` is a list so that Ray hands the reference on instead of the arrays; empty where they are broadcast.
    ``manifest`` is of what is published, ``merged`` of the checkpoint's weights: the same unless an adapter alone is.
    """

    round: int
    metrics: RoundMetrics
    checkpoint: Path
    manifest: WeightsManifest
    merged: WeightsManifest
    weights: list[ray.ObjectRef]  # of dict[str, np.ndarray], bfloat16 as int16


class LearnerGroup:
    """Driver's handle on the learner ranks. Needs an initialised Ray; not thread-safe.

    Args:
        config: The run.
        run_dir: Folder of the run; on storage that all nodes share, where there are several.
        start: Policy to begin with if ``run_dir`` has no checkpoint yet.
        start_round: Round whose weights ``start`` are; 0 for the policy of the config.
        env: Further environment variables of the ranks.
        say: Told in one line when ranks die, wait for a place, and are back.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        start: Path,
        start_round: int = 0,
        env: Mapping[str, str] | None = None,
        *,
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        self._config = config
        self._run_dir = Path(run_dir).absolute()
        self._start = Path(start).absolute()
        self._start_round = start_round
        gpu = config.learner.gpus_per_worker > 0
        local = {} if config.cluster.address else LOOPBACK_ENVIRONMENT
        self._env = {**({} if gpu else CPU_ENVIRONMENT | local), **(env or {})}
        self._name = f"isogloss-{config.run.name}{_MAILBOX}{uuid.uuid4().hex[:12]}"
        self._storage = self._run_dir / f".{self._name}"
        self._mailbox: Any = None
        self._fit: threading.Thread | None = None
        self._fit_error: BaseException | None = None
        self._trainer: EndableTrainer | None = None
        self._opening = threading.Lock()  # a close may come from another thread while the group starts
        self._closed = False
        self._up = False
        self._last: RoundResult | None = None
        self._say = say
        self._known_starts = 1
        self._quiet = False  # it was told that no rank is heard of

    def start(self, timeout: float) -> None:
        """Start the ranks; returns when all of them have the model loaded.

        Raises:
            UserError: The policy cannot be used.
            LearnerTimeout: The ranks are not there in time; free CPUs or GPUs may be missing.
            LearnerFailed: The ranks died more often than ``learner.max_failures`` allows, or the group was closed.
        """
        deadline = time.monotonic() + timeout
        self._run_dir.mkdir(parents=True, exist_ok=True)
        for left in self._run_dir.glob(
            f".isogloss-*{_MAILBOX}*"
        ):  # of a driver that was killed: there is one at a time
            shutil.rmtree(left, ignore_errors=True)
        # Ray Train's default would make every message between ranks and controller wait for seconds.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # Beside the driver: its end is then the group's end anyway, and no other node's is.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": 256, "scheduling_strategy": here}
        workers = self._config.learner.workers
        what = f"{workers} learner rank(s) to start"
        with self._opening:
            if self._closed:
                raise LearnerFailed(f"the learner group was closed while waiting for {what}")
            self._trainer = self._make_trainer()
            self._mailbox = ray.remote(Mailbox).options(name=self._name, **options).remote()
            self._fit = threading.Thread(target=self._run_fit, args=(self._trainer,), name="learner-fit", daemon=True)
            self._fit.start()
        while True:
            found = self._ask(self._open(what).started.remote(workers, _POLL_S), what)
            if isinstance(found, Exception):
                raise found
            if found:
                self._up = True
                return
            self._check(deadline, timeout, what)

    def reference(self, round_number: int, pairs: Sequence[Example], timeout: float) -> Referenced:
        """Summed log-probabilities of every example's answers under the loss reference, by id.

        A pair's are (chosen, rejected); empty for an objective without a reference.
        """
        found: Referenced
        found, _ = self._command("reference", round_number, list(pairs), f"{len(pairs)} pairs", timeout)
        return found

    def train(self, round_number: int, pairs: Sequence[Example], timeout: float) -> RoundResult:
        """Train a round and publish its weights; a round that was trained before is published again.

        Raises:
            UserError: Bad examples, a full disk, or (``NumericError``) a loss that is not finite. The group is
                of no further use; the last checkpoint is untouched.
            LearnerTimeout: It took longer than ``timeout`` seconds.
            LearnerFailed: The ranks died more often than ``learner.max_failures`` allows.
        """
        snapshot: Snapshot
        snapshot, weights = self._command("train", round_number, list(pairs), f"{len(pairs)} pairs", timeout)
        self._last = RoundResult(
            round_number, snapshot.metrics, snapshot.checkpoint, snapshot.manifest, snapshot.merged, list(weights)
        )
        return self._last

    def weights(self, timeout: float) -> list[ray.ObjectRef]:
        """The weights of the last trained round, read from its checkpoint if there is no object, or none any more.

        The rank that published them owns the object, so it goes when the rank does.
        """
        if self._last is None:
            raise LearnerFailed("no round has been trained yet, so there are no weights to hand out")
        if not self._last.weights:
            self._reload(self._last)
            return self._last.weights
        # Without fetching them: the driver needs none of these bytes itself. An object whose owner died is "ready" too.
        reference = self._last.weights[0]
        if not ray.wait([reference], timeout=timeout, fetch_local=False)[0]:
            raise LearnerTimeout(
                f"waited {timeout:g} s for the weights of round {self._last.round} from the object store"
            )
        where = get_object_locations([reference]).get(reference)
        if where is None or not (where["node_ids"] or where["did_spill"]):
            logger.warning("weights of round %d are lost: reading the checkpoint", self._last.round)
            self._reload(self._last)
        return self._last.weights

    def broadcast(self, rendezvous: Rendezvous) -> None:
        """Send the weights of the last trained round to all who come to the rendezvous; returns when they have them.

        Raises:
            BroadcastFailed: Not all got them, or rank 0 was restarted since it trained the round.
            LearnerTimeout, LearnerFailed: As for ``train``.
        """
        if self._last is None:
            raise LearnerFailed("no round has been trained yet, so there are no weights to send")
        self._command(
            "broadcast", self._last.round, rendezvous, f"to {rendezvous.size - 1} processes", rendezvous.timeout_s
        )

    def ranks(self) -> dict[int, tuple[str, int]]:
        """Node id and process id of every rank."""
        found: dict[int, tuple[str, int]] = self._ask(self._mailbox.ranks.remote(), "the ranks' process ids")
        return found

    def starts(self) -> int:
        """How often the group has started: 1 unless a rank died."""
        return int(self._ask(self._mailbox.starts.remote(), "the number of starts"))

    def close(self) -> None:
        """Stop the ranks, or their start; safe to call at any time, from any thread, and more than once.

        Ranks that are up are asked to leave and get a moment for it; whatever is left is killed.
        """
        with self._opening:
            self._closed = True
            mailbox, self._mailbox = self._mailbox, None
        if mailbox is None:
            return
        assert self._fit is not None
        assert self._trainer is not None
        if self._up:
            try:
                ray.get(mailbox.close.remote(), timeout=_REPLY_S)
                self._fit.join(_LEAVE_S)
            except RayError as error:
                logger.warning("the learner's mailbox did not answer on closing (%s)", error)
        if self._fit.is_alive():
            self._trainer.end()
            self._fit.join(_LEAVE_S)
            if self._fit.is_alive():
                logger.warning("the learner group is still stopping after %g s", _LEAVE_S)
        ray.kill(mailbox)
        shutil.rmtree(self._storage, ignore_errors=True)

    def _make_trainer(self) -> EndableTrainer:
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from learners.process_group import NodeTorchConfig
        from learners.trainer import EndableTrainer

        learner = self._config.learner
        gpu = learner.gpus_per_worker > 0
        resources = {"CPU": learner.cpus_per_worker} | ({"GPU": learner.gpus_per_worker} if gpu else {})
        return EndableTrainer(
            train_loop_per_worker=train_loop,
            train_loop_config=asdict(self._loop_config()),
            torch_config=NodeTorchConfig(backend="nccl" if gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=learner.workers, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name=self._name,
                storage_path=str(self._storage),
                failure_config=FailureConfig(max_failures=learner.max_failures),
                # mypy sees the class of Ray Train v1, which v2 replaces on import.
                worker_runtime_env={"env_vars": self._env},  # type: ignore[call-arg]
            ),
        )

    def _run_fit(self, trainer: EndableTrainer) -> None:
        try:
            trainer.fit()
        except Exception as error:
            self._fit_error = error

    def _loop_config(self) -> LoopConfig:
        return LoopConfig(
            mailbox=self._name,
            namespace=ray.get_runtime_context().namespace,
            run_dir=str(self._run_dir),
            start=str(self._start),
            start_round=self._start_round,
            seed=self._config.run.seed,
            min_free_disk_gb=self._config.run.min_free_disk_gb,
            broadcasts=self._config.cluster.weight_transfer == "broadcast",
            learner=self._config.learner.model_dump(mode="json"),
            model=self._absolute_model(),
            plugins=self._config.run.plugins,
        )

    def _absolute_model(self) -> JsonObject:
        """The model section with absolute paths: a rank's working directory is Ray's."""
        model = self._config.model
        found = model.model_dump(mode="json")
        found["policy"] = str(model.policy.absolute())
        return found

    def _command(
        self, kind: CommandKind, round_number: int, payload: Any, size: str, timeout: float
    ) -> tuple[Any, tuple[Any, ...]]:
        if self._mailbox is None:
            raise LearnerFailed(f"{kind} of round {round_number}: the learner group is not running")
        deadline = time.monotonic() + timeout
        what = f"the learner's {kind} of round {round_number} ({size})"
        number = self._ask(self._open(what).post.remote(kind, round_number, payload), what)
        while True:
            wait = min(_POLL_S, max(deadline - time.monotonic(), 0.0))
            outcome: Outcome | None = self._ask(self._open(what).outcome.remote(number, wait), what)
            self._tell_deaths(what)
            if outcome is not None:
                if outcome.error is not None:
                    raise outcome.error
                return pickle.loads(outcome.result), outcome.references
            self._check(deadline, timeout, what)

    def _tell_deaths(self, what: str) -> None:
        """Say once that ranks are gone, and once that they are back."""
        starts, silence = self._ask(self._open(what).life.remote(), what)
        if starts > self._known_starts:
            self._known_starts, self._quiet = starts, False
            allowed = self._config.learner.max_failures
            self._say(f"the learner group was started again ({starts - 1} of {allowed}), as a rank had died")
        elif silence > _SILENCE_S and not self._quiet:
            self._quiet = True
            self._say(
                f"a learner rank has not been heard of for {silence:.0f} s: Ray Train starts the group again once "
                f"there is room for {self._config.learner.workers} x {self._config.learner.cpus_per_worker:g} CPUs and "
                f"{self._config.learner.gpus_per_worker:g} GPUs (at most cluster.train_timeout_s)"
            )

    def _open(self, what: str) -> Any:
        """The mailbox, which another thread may take away."""
        mailbox = self._mailbox
        if mailbox is None:
            raise LearnerFailed(f"the learner group was closed while waiting for {what}")
        return mailbox

    def _ask(self, ref: ray.ObjectRef, what: str) -> Any:
        try:
            return ray.get(ref, timeout=_POLL_S + _REPLY_S)
        except GetTimeoutError:
            raise LearnerTimeout(f"the learner's mailbox did not answer while waiting for {what}") from None
        except RayActorError as error:
            raise LearnerFailed(f"the learner's mailbox died while waiting for {what} ({reason_of(error)})") from error

    def _check(self, deadline: float, timeout: float, what: str) -> None:
        if self._fit is None or not self._fit.is_alive():
            raise LearnerFailed(
                f"the learner group ended while waiting for {what}; its ranks failed more often than "
                f"learner.max_failures ({self._config.learner.max_failures}) allows: "
                f"{reason_of(self._fit_error or 'no reason was given')}"
            ) from self._fit_error
        if time.monotonic() > deadline:
            raise LearnerTimeout(f"waited {timeout:g} s for {what}; raise the deadline or look at the ranks' logs")

    def _reload(self, lost: RoundResult) -> None:
        # Late: they import torch, and a run begins sooner without.
        from safetensors.torch import load_file

        from learners.weights import checksum, to_numpy

        tensors = load_file(published_file(lost.checkpoint, self._config.learner))
        if checksum(tensors) != lost.manifest.checksum:
            raise LearnerFailed(f"{lost.checkpoint}: its weights are not those of round {lost.round}")
        self._last = replace(lost, weights=[ray.put(to_numpy(tensors))])
