"""Offline training: rounds are slices of a preference file, and of the team only journal and learner group exist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actors.engine.sync_report import SyncReport
from actors.plan.positions import check_positions
from actors.plan.preflight import check_disk, check_heldout_judge, check_machine, check_model, check_plain
from actors.train.track import RunParts, Track
from configs.errors import UserError
from configs.json_types import JsonMapping, JsonObject
from configs.schema import Config
from learners.encode import ChatEncoder
from learners.objectives.trial import try_objective
from rollout.preferences import Preference, Reading, digest, offline_pairs, read_preferences, refuse, rounds_of
from rollout.prompts import PromptSet, check_lengths
from rollout.state import Action


@dataclass(frozen=True)
class OfflineInputs:
    """The validated inputs of an offline run.

    Attributes:
        config: The run's, with as many rounds as the file has slices.
        preferences: What is trained on.
        reading: All that the file holds, with its form and what was left out of it.
        left_out: Pairs that ``offline.skip_longer`` left out.
        spelled: Texts that spell a special token of the tokenizer: they are taken as plain text.
        heldout: Prompts that are evaluated at the start and at the end; None without any.
    """

    config: Config
    preferences: list[Preference]
    left_out: int
    spelled: int
    reading: Reading
    heldout: PromptSet | None


def check_offline(config: Config, ask_judge: bool = True) -> OfflineInputs:
    """Load and check the model's folder, every row of the preference file, lengths and disk.

    Args:
        config: The run's.
        ask_judge: Whether a judge of the held-out answers is asked one question, which may cost something.

    Raises:
        UserError: names the file:line or field, and the cure.
    """
    check_machine(config)
    check_disk(config.run)
    reading = read_preferences(config)
    preferences = reading.rows
    encoder = ChatEncoder.of(config.model, config.model.policy)
    check_model(config.model.policy, "model.policy")
    try_objective(config.learner)
    check_positions(config.model.policy, config.model.max_length, trains_only=True)
    spelled = 0
    fitting, problems = [], []
    limit = config.model.max_length
    for one in preferences:
        try:
            spelled += _plain(one, encoder)
            prompt = len(encoder.prompt_ids(one.prompt))
        except UserError as error:
            problems.append(f"{one.where}: {error}")
            continue
        length = prompt + max(len(encoder.completion_ids(text)) for text in (one.chosen, one.rejected))
        if length <= limit:
            fitting.append(one)
        elif not config.offline.skip_longer:
            problems.append(
                f"{one.where}: prompt and answer are {length} tokens, more than model.max_length {limit}; raise it, or "
                "set offline.skip_longer to true"
            )
    refuse(problems)
    if not fitting:
        raise UserError(
            f"offline.skip_longer: none of {len(preferences)} pairs fits model.max_length {limit}; raise it"
        )
    heldout = PromptSet.from_config(config, "heldout") if config.prompts.heldout else None
    if heldout is not None:
        spelled += check_plain(heldout, encoder)
        check_lengths(heldout, lambda text: len(encoder.prompt_ids(text)), limit, config.rollout.longest)
    rounds = rounds_of(fitting, config.offline.pairs_per_round)
    sliced = config.model_copy(update={"schedule": config.schedule.model_copy(update={"rounds": rounds})})
    if ask_judge:
        check_heldout_judge(config)
    return OfflineInputs(sliced, fitting, len(preferences) - len(fitting), spelled, reading, heldout)


def _plain(one: Preference, encoder: ChatEncoder) -> int:
    """How many of a row's texts spell a special token.

    Raises:
        UserError: One of them went through the chat template already.
    """
    texts = [one.prompt] if isinstance(one.prompt, str) else [message.content for message in one.prompt]
    cure = "write the texts alone, or as messages: the template is applied by isogloss"
    for text in texts:
        if (marker := encoder.template.applied(text, encoder.special_tokens)) is not None:
            raise UserError(f"the prompt went through the chat template already (it has {marker!r}); {cure}")
    for name, answer in (("chosen", one.chosen), ("rejected", one.rejected)):
        if (marker := encoder.template.ended(answer, encoder.special_tokens)) is not None:
            raise UserError(f"the {name} answer went through the chat template already (it ends in {marker!r}); {cure}")
    return sum(bool(encoder.spelled(text)) for text in (*texts, one.chosen, one.rejected))


class OfflineTrack(Track):
    """Slices of the file; nothing is sampled, scored or published.

    Args:
        parts: Shared with the driver.
        inputs: Pairs, validated; their config is that of the parts.
    """

    samples = False

    def __init__(self, parts: RunParts, inputs: OfflineInputs) -> None:
        super().__init__(parts, inputs.heldout)
        self._offline = inputs
        self._digest = digest(inputs.preferences)

    def begin(self) -> None:
        """Refuse a file that changed since the run began.

        Raises:
            UserError: It holds other pairs.
        """
        for round_number, (_, data) in self._parts.team.store.round_states().items():
            if data.get("offline_digest", self._digest) != self._digest:
                raise UserError(
                    f"offline.path: {self._config.offline.path} holds other pairs than when round {round_number} "
                    "of this run was made; restore it, or choose another run.name"
                )

    def advance(self, action: Action, tick: Callable[[], bool]) -> None:
        """See ``Track.advance``."""
        if action.kind != "pair":
            self._parts.done(action)  # nothing to sample or to score
            return
        with self._parts.clocks[action.round].stage("pair"):
            pairs = offline_pairs(self._offline.preferences, self._config.offline.pairs_per_round, action.round)
            languages = Counter(pair.language for pair in pairs)
            counts: JsonObject = {"pairs": len(pairs), "pairs_by_language": dict(sorted(languages.items()))}
            self._parts.exported.sliced(counts["pairs_by_language"])
            self._parts.team.store.put_pairs(action.round, pairs)
            self._parts.done(action, {"counts": counts, "offline_digest": self._digest})
        self._parts.screen.say(f"round {action.round}: {len(pairs)} pairs, reference and training")

    def row(self, round_number: int, data: JsonMapping, reports: list[SyncReport]) -> JsonObject:
        """See ``Track.row``."""
        return {
            "round": round_number,
            "weight_version": round_number,
            "counts": data["counts"],
            "learner": data["learner"],
            "seconds": self._parts.clocks[round_number].summary(),
        }

    def show(self, row: JsonObject) -> None:
        """See ``Track.show``."""
        self._parts.screen.offline_line(row, self._config.schedule.rounds)


def offline_summary(inputs: OfflineInputs, states: Mapping[int, tuple[str, JsonMapping]], seconds: float) -> JsonObject:
    """``summary.json`` of an offline run: what was trained on, and how it went from the first step to the last."""
    rounds = inputs.config.schedule.rounds
    first, last = (states[number][1]["learner"] for number in (1, rounds))
    return {
        "rounds": rounds,
        "weight_version": rounds,
        "wall_seconds": seconds,
        "pairs": len(inputs.preferences),
        "pairs_by_language": dict(sorted(Counter(one.language for one in inputs.preferences).items())),
        "left_out_longer": inputs.left_out,
        "left_out_rows": dict(sorted(inputs.reading.left_out.counts.items())),
        "first_loss": first["first_loss"],
        "last_loss": last["last_loss"],
        "reward_accuracy": last["reward_accuracy"],
        "reward_margin": last["reward_margin"],
    }
