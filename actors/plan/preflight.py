"""Everything that can be found wrong before Ray starts is found here, within seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from actors.machine.checks import BEFORE_RAY, journal, refuse_failing, run_folder
from actors.machine.facts import look
from actors.machine.findings import Wants
from actors.plan.fertility import Fertility, fertility
from actors.plan.positions import check_positions
from actors.reward.custom import try_rewards
from configs.errors import UserError
from configs.model_config import read_model_config
from configs.reading import gib_apart
from configs.schema import Config, RunConfig
from judges import check_endpoint
from judges.generator import check_server
from judges.own_source import try_sources
from learners.encode import ChatEncoder
from learners.objectives.trial import try_objective
from rollout.anchors import Anchor, load_anchors
from rollout.answer_files import FileAnswers, left_out_lines, load_answers
from rollout.languages import DEFAULT_NAMES, language_name
from rollout.miners import try_miner
from rollout.model_folder import check_engine_files, check_model_folder
from rollout.plan import load_untranslated
from rollout.prompts import PromptSet, check_lengths
from rollout.quota import check_quota
from rollout.records import Turns, chat_of
from rollout.sources import sources
from rollout.templates import TRANSLATION_PRIME, crosslingual_instruction, translation_instruction
from rollout.word_lists import check_word_lists


@dataclass(frozen=True)
class Inputs:
    """The validated inputs of a run."""

    prompts: PromptSet
    heldout: PromptSet | None
    anchors: tuple[Anchor, ...]
    untranslated: frozenset[str]  # ids of prompts about translation
    names: dict[str, str]  # language code -> English name
    fits: Callable[[str], bool]  # whether a translation's user turn leaves room for the translation
    left_out: int  # train ids that prompts.skip_longer_than left out
    answers: dict[str, FileAnswers]  # of the file sources
    measure: Callable[[Turns, str], tuple[tuple[int, ...], bool]]  # prompt, answer -> its tokens, and whether they fit
    spelled: int  # prompts that spell a special token of the tokenizer: they are taken as plain text
    fertility: dict[str, Fertility] = field(default_factory=dict)  # of the train prompts, by language
    unused: tuple[str, ...] = ()  # lines on fields that others replace, and languages without a word list

    @property
    def notes(self) -> list[str]:
        """Lines on what of the inputs and of the config is not used, or not judged by."""
        return [*left_out_lines(self.answers), *self.unused]


def check_inputs(config: Config, ask_judge: bool = True) -> Inputs:
    """Load and check models' folders, prompts, anchors, lengths and disk.

    Args:
        config: The run's.
        ask_judge: Whether a judge is asked one question, which may cost something.

    Raises:
        UserError: names the file:line or field, and the cure.
    """
    check_machine(config)
    check_disk(config.run)
    names = {code: language_name(code, config.languages.names) for code in config.languages.codes}
    prompts = PromptSet.from_config(config, "train")
    heldout = PromptSet.from_config(config, "heldout") if config.prompts.heldout else None
    encoder = ChatEncoder.of(config.model, config.model.policy)
    check_model(config.model.policy, "model.policy")
    _named("model.policy", check_engine_files, config.model.policy)
    check_positions(config.model.policy, config.model.max_length)
    if config.reads_reference and config.model.reference is not None:
        check_model(config.model.reference, "model.reference")
        reference = ChatEncoder.of(config.model, config.model.reference)
        _check_same_tokenizer(encoder, reference, config)
    anchors = load_anchors(config)
    for section, measure in config.reward.models.items():
        from actors.reward.reward_model import check_reward_model  # late: it takes seconds

        check_reward_model(measure.model, f"{section}.model")

    # The longest form that a prompt takes: as sampled, or as the cross-lingual reward prompt.
    longest_name = max(names.values(), key=len)

    for split in (prompts, heldout):
        if split is not None:
            check_roles(split, encoder)
    rows = {row.turns: row for split in (prompts, heldout) if split for row in split.rows.values()}
    texts = list(rows)
    asked = texts
    if config.reward.from_logprobs:
        asked = [row.asking(crosslingual_instruction(row.text, longest_name)) for row in rows.values()]
    # Lengths are only compared with these: what is surely shorter need not be counted.
    enough = min(config.prompts.skip_longer_than or config.model.max_length,
                 config.model.max_length - max(map(config.rollout.longest, config.evaluated)))  # fmt: skip
    count = dict(zip(texts, encoder.prompt_lengths(asked, enough), strict=True)).__getitem__

    spelled = sum(check_plain(split, encoder) for split in (prompts, heldout) if split is not None)
    left_out = len(prompts.ids)
    prompts = _without_long(prompts, config, count)
    left_out -= len(prompts.ids)
    heldout = None if heldout is None else _without_long(heldout, config, count)
    for split in (prompts, heldout):
        if split is not None:
            check_lengths(split, count, config.model.max_length, config.rollout.longest)
    if any(source.of is not None and source.giver == "policy" for source in sources(config)):
        _check_translation_room(config, encoder, longest_name)
    try_rewards(config, prompts)
    unused = (*config.rollout.unused, *check_word_lists(config))
    try_objective(config.learner)
    try_miner(config)
    if config.languages.quota is not None:
        check_quota(config, prompts)
    answers = load_answers(config, prompts)
    try_sources(config, prompts)
    if ask_judge:  # last: these checks may cost something
        for name, endpoint in config.endpoints.items():
            check_server(name, endpoint)
    if ask_judge and config.reward.judged:
        check_endpoint(config.judge)
    if ask_judge:
        check_heldout_judge(config)
    room = config.model.max_length - config.candidates.translation_max_new_tokens

    def fits(instruction: str) -> bool:
        return len(encoder.prompt_ids(instruction, prime=TRANSLATION_PRIME)) <= room

    tokens = fertility(prompts, lambda text: len(encoder.completion_ids(text)) - 1)
    room_of: dict[Turns, int] = {}

    def measured(prompt: Turns, answer: str) -> tuple[tuple[int, ...], bool]:
        if prompt not in room_of:
            room_of[prompt] = config.model.max_length - len(encoder.prompt_ids(prompt))
        ids = tuple(encoder.completion_ids(answer))
        return ids, len(ids) <= room_of[prompt]

    # These are only shown: a code does where no name is known.
    shown = names | {code: DEFAULT_NAMES.get(code, code) for code in config.evaluation.languages}
    return Inputs(
        prompts,
        heldout,
        anchors,
        load_untranslated(config),
        shown,
        fits,
        left_out,
        answers,
        measured,
        spelled,
        tokens,
        unused,
    )


def check_heldout_judge(config: Config) -> None:
    """Ask the judge of the held-out answers one small question, where there is one.

    Raises:
        UserError: It cannot be asked; names the field below ``evaluation.judge``.
    """
    if config.evaluation.judge is not None:
        with within_evaluation():
            check_endpoint(config.evaluation.judge)


@contextmanager
def within_evaluation() -> Iterator[None]:
    """What is said of section ``judge`` concerns ``evaluation.judge``."""
    try:
        yield
    except UserError as error:
        said = str(error)
        raise UserError(f"evaluation.{said}" if said.startswith("judge.") else said) from error


def _without_long(prompts: PromptSet, config: Config, count: Callable[[Turns], int]) -> PromptSet:
    limit = config.prompts.skip_longer_than
    if limit is None:
        return prompts
    kept = [
        prompt_id
        for prompt_id in prompts.ids
        if all(
            count(prompts.get(prompt_id, code).turns) <= limit
            for code in prompts.languages
            if (prompt_id, code) in prompts.rows
        )
    ]
    if not kept:
        raise UserError(
            f"prompts.skip_longer_than: {limit} tokens leaves none of the {len(prompts.ids)} prompts; raise it"
        )
    return prompts.only(kept)


def check_machine(config: Config) -> None:
    """Refuse what keeps Ray, or the journal, from working here at all; ``isogloss doctor`` looks at far more."""
    facts = look(config.run.dir / config.run.name, (), os.environ)
    refuse_failing(facts, Wants(address=config.cluster.address), (*BEFORE_RAY, run_folder, journal))


def check_plain(prompts: PromptSet, encoder: ChatEncoder) -> int:
    """Refuse prompts that went through the chat template already; returns how many spell a special token.

    Raises:
        UserError: Names the first such prompt's file:line, how many there are, and the cure.
    """
    spelled, applied = 0, []
    for (key, code), prompt in prompts.rows.items():
        spelled += bool(encoder.spelled(prompt.turns))
        for turn in chat_of(prompt.turns):
            if (marker := encoder.template.applied(turn["content"], encoder.special_tokens)) is not None:
                applied.append((prompts.location(key, code), marker))
                break
    if applied:
        where, marker = applied[0]
        raise UserError(
            f"{where}: the prompt went through the chat template already (it has {marker!r}); {len(applied)} prompt(s) "
            "did; write the user's text alone: the template is applied by isogloss"
        )
    return spelled


def check_roles(prompts: PromptSet, encoder: ChatEncoder) -> None:
    """Refuse chats that the template refuses; each sequence of roles is tried once.

    Raises:
        UserError: Names the first such prompt's file:line and its roles.
    """
    tried: set[tuple[str, ...]] = set()
    for (key, code), prompt in prompts.rows.items():
        roles = tuple(turn.role for turn in prompt.before)
        if not roles or roles in tried:
            continue
        tried.add(roles)
        try:
            encoder.prompt_ids(prompt.turns)
        except UserError as error:
            raise UserError(f"{prompts.location(key, code)}: {error} (they are {', '.join(roles)}, user)") from error


def check_disk(run: RunConfig) -> None:
    """Refuse to start on a disk that the first checkpoint would fill."""
    folder = run.dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < run.min_free_disk_gb:
        there, wanted = gib_apart(free, run.min_free_disk_gb)
        raise UserError(
            f"run.dir: {run.dir} has {there} GiB free, less than run.min_free_disk_gb "
            f"{wanted}; free some space or choose another folder"
        )


def check_model(folder: Path, field: str) -> None:
    """Refuse a folder without config or whole weights; ``field`` is the config field that names it."""
    read_model_config(folder, field)
    _named(field, check_model_folder, folder)


def _named(field: str, check: Callable[[Path], None], folder: Path) -> None:
    try:
        check(folder)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def _check_same_tokenizer(policy: ChatEncoder, reference: ChatEncoder, config: Config) -> None:
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise UserError(
            f"model.reference: {config.model.reference} has another tokenizer than model.policy "
            f"{config.model.policy}; the implicit reward compares the two token by token, so take the model that "
            "the policy was aligned from"
        )


def _check_translation_room(config: Config, encoder: ChatEncoder, name: str) -> None:
    longest = max(map(config.rollout.longest, config.languages.codes))
    frame = len(encoder.prompt_ids(translation_instruction("", name), prime=TRANSLATION_PRIME))
    needed = frame + longest + config.candidates.translation_max_new_tokens
    if needed > config.model.max_length:
        raise UserError(
            f"model.max_length: {config.model.max_length} is too short to translate an answer: the instruction "
            f"takes {frame} tokens, the answer up to {longest}, its translation up to "
            f"{config.candidates.translation_max_new_tokens}; raise it to {needed} or lower the other two"
        )
