"""Answers to a suite from a model folder, on rollout actors of a small cluster of their own."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from actors.engine.rollout import create_rollout_actor
from actors.observe.screen import Screen
from actors.runtime.calls import ActorDied, DeadlineExceeded, call
from actors.runtime.cluster import start_cluster
from actors.runtime.pool import Call, Pool, drain
from actors.runtime.signals import StopFlag, StopRequested, stop_on_signals
from configs.errors import Stopped, UserError
from configs.inputs import LanguagesConfig, ModelConfig, PromptsConfig, RunConfig
from configs.json_types import JsonObject
from configs.model_config import longest_context
from configs.reward import VerifierReward
from configs.running import ClusterConfig
from configs.sampling import RolloutConfig
from configs.schema import Config
from evaluation.suites.records import Answer, Decoding, Suite, SuiteItem
from learners.encode import ChatEncoder
from rollout.plan import Chunk, Request
from rollout.records import Candidate, CandidateKey
from rollout.seeds import stable_seed


@dataclass(frozen=True, slots=True)
class Machine:
    """What the rollout actors of an evaluation get.

    Attributes:
        actors: How many.
        gpus: Of each.
        kv_cache_gib: Key-value cache of each, GiB.
        chunk: Prompts of one call; greedy answers may depend on it in the last bits, sampled ones do.
        call_timeout_s: Longest that one call may take.
        start_timeout_s: Longest that the actors may take to start.
    """

    actors: int = 1
    gpus: float = 0.0
    kv_cache_gib: float = 0.5
    chunk: int = 32
    call_timeout_s: float = 1800.0
    start_timeout_s: float = 600.0


def suite_chunks(suite: Suite, decoding: Decoding, size: int) -> list[tuple[Chunk, list[SuiteItem]]]:
    """Blocks of a language's prompts with the items that they ask, whether their answers are known or not: what a chunk
    holds must not depend on the cache."""
    out: list[tuple[Chunk, list[SuiteItem]]] = []
    for code in suite.languages:
        items = suite.of(code)
        for block, start in enumerate(range(0, len(items), size)):
            part = items[start : start + size]
            requests = tuple(_request(item, decoding) for item in part)
            out.append((Chunk(f"{suite.name}/{code}/{block:04d}", 0, "answer", code, code, requests), part))
    return out


def generate(
    suite: Suite,
    folder: Path,
    decoding: Decoding,
    machine: Machine,
    missing: set[tuple[str, str]],
    *,
    screen: Screen,
    keep: Callable[[dict[tuple[str, str], Answer]], None],
    logs: Path,
) -> None:
    """Answer every chunk that has a missing answer.

    Args:
        suite: What is asked.
        folder: Hugging Face folder.
        decoding: How.
        machine: On what.
        missing: (language, id) of the items without an answer.
        screen: Where progress is shown.
        keep: Gets each chunk's answers as soon as they are there.
        logs: Folder for the line that says where Ray's logs are.

    Raises:
        UserError: A prompt is too long for the model, or an engine could not be started.
        Stopped: Ctrl-C or SIGTERM; what was answered was kept.
    """
    config = _config(suite, folder, decoding, machine, _longest(suite, folder, decoding))
    chunks = [(chunk, items) for chunk, items in suite_chunks(suite, decoding, machine.chunk)
              if any(item.key in missing for item in items)]  # fmt: skip
    cluster = config.cluster
    pool = Pool(
        "rollout actor",
        lambda index: create_rollout_actor(config, folder, 0, index),
        machine.actors,
        cluster.call_timeout_s,
        cluster.max_actor_restarts,
        start_timeout_s=cluster.start_timeout_s,
        say=screen.say,
    )
    flag = StopFlag()
    with _stop_explained(flag), stop_on_signals(flag), start_cluster(cluster, logs, should_stop=flag) as started:
        started.watch.advise("answers so far are kept; start the same command again")
        call(pool.start(), cluster.start_timeout_s, "rollout actors to start", flag)
        prompts = sum(len(chunk.requests) for chunk, _ in chunks)
        with screen.stage(f"{suite.name}: {folder.name} answers {prompts} prompts") as bar:
            bar.total(len(chunks))

            def done(
                items: Sequence[SuiteItem], _begin: float, _end: float, found: tuple[str, list[Candidate]]
            ) -> None:
                keep({
                    item.key: Answer(candidate.text, candidate.finish_reason, len(candidate.token_ids))
                    for item, candidate in zip(items, found[1], strict=True)
                })  # fmt: skip
                bar.advance(1)

            for chunk, items in chunks:  # each apart: its answers must not depend on which others are known
                pool.submit(Call(f"generate {chunk.id}", "generate", ([chunk],), partial(done, items), streams=True))
            drain([pool], flag)


@contextmanager
def _stop_explained(flag: StopFlag) -> Iterator[None]:
    try:
        yield
    except StopRequested:
        raise Stopped(f"stopped by {flag.asked_by}; the answers so far are kept: the same command continues") from None
    except (ActorDied, DeadlineExceeded) as error:
        raise UserError(f"{error}\n  The answers so far are kept; the same command continues.") from error


def _request(item: SuiteItem, decoding: Decoding) -> Request:
    return Request(
        key=CandidateKey(0, item.id, item.language, "policy", item.language, 0),
        prompt=item.prompt,
        prime="",
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=-1,
        max_new_tokens=decoding.max_new_tokens,
        seed=stable_seed(decoding.seed, "eval", item.language, item.id),
    )


def _date(decoding: Decoding) -> datetime.date:
    text = decoding.template_date
    return datetime.date.today() if text is None else datetime.date.fromisoformat(text)


def _longest(suite: Suite, folder: Path, decoding: Decoding) -> int:
    """Tokens of the longest prompt with its answer."""
    encoder = ChatEncoder(folder, decoding.add_bos, _date(decoding), decoding.chat_template, decoding.template_values)
    lengths = [(_tokens(encoder, item), item) for item in suite.items]
    limit = longest_context(folder)
    long = [(tokens, item) for tokens, item in lengths if limit and tokens + decoding.max_new_tokens > limit]
    if long:
        tokens, item = long[0]
        raise UserError(
            f"{item.where}: the prompt has {tokens} tokens, which with {decoding.max_new_tokens} new ones is "
            "more than the "
            f"{limit} that {folder} can hold; {len(long)} prompt(s) are too long; lower --max-new-tokens or "
            "--shots, or "
            "remove them"
        )
    return max(tokens for tokens, _ in lengths) + decoding.max_new_tokens


def _tokens(encoder: ChatEncoder, item: SuiteItem) -> int:
    try:
        return len(encoder.prompt_ids(item.prompt))
    except UserError as error:
        raise UserError(f"{item.where}: {error}") from error


def _config(suite: Suite, folder: Path, decoding: Decoding, machine: Machine, max_length: int) -> Config:
    settings: JsonObject = {
        "dtype": decoding.dtype,
        "add_bos": decoding.add_bos,
        "template_date": _date(decoding),
        "chat_template": decoding.chat_template,
        "chat_template_kwargs": decoding.template_values,
    }
    return Config(
        run=RunConfig(name=f"eval-{suite.name}", seed=decoding.seed),
        model=ModelConfig(policy=folder, max_length=max(8, max_length), **settings),
        languages=LanguagesConfig(dominant=suite.languages[0], codes=list(suite.languages)),
        prompts=PromptsConfig(train=f"{suite.name}/{{lang}}"),
        rollout=RolloutConfig(
            actors=machine.actors,
            gpus_per_actor=machine.gpus,
            max_new_tokens=decoding.max_new_tokens,
            kv_cache_gb=machine.kv_cache_gib,
        ),
        reward=VerifierReward(),  # the only kind that needs no further model
        cluster=ClusterConfig(
            num_cpus=float(machine.actors),
            call_timeout_s=machine.call_timeout_s,
            start_timeout_s=machine.start_timeout_s,
        ),
    )
