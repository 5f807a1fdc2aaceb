"""``isogloss audit-reward``: a run's reward on labelled pairs, in this process, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from actors.observe.screen import Screen
from actors.reward.log_ratios import scoring_models
from actors.reward.scorers import reward_scorer
from actors.reward.shared import Scorer, Shared
from configs.errors import UserError
from configs.load import load_config, load_run_config
from configs.reading import is_file, is_folder
from configs.schema import Config
from evaluation.audit import Judgement, write_audit
from judges import check_endpoint
from rollout.formats.left_out import LeftOut
from rollout.hub import is_hub_name, resolved, snapshot
from rollout.language import LanguageDetector
from rollout.policy import run_policy
from rollout.preferences import Preference, read_all
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Message, Prompt
from rollout.seeds import stable_seed
from rollout.token_ids import TokenIds

_AT_ONCE = 16  # pairs of one call


def run_audit(
    config: Path,
    data: Sequence[Path | str],
    overrides: Sequence[str],
    out: Path | None,
    limit: int | None,
    *,
    quiet: bool,
) -> str:
    """Audit a reward and write the result.

    Args:
        config: YAML file, a preset's name, or a run's folder: its newest policy is then the reward's.
        data: Preference files, see ``offline.path``; joined by id over languages.
        overrides: Of the config.
        out: Result folder; by default ``runs/audit/`` and the name of the run.
        limit: Only the first pairs of each language.
        quiet: Show nothing.

    Returns:
        The page.

    Raises:
        UserError: The reward cannot be audited, or config, data or a model are unusable.
    """
    run, policy = _loaded(config, overrides)
    _check(run)
    screen = Screen(quiet)
    rows, left_out, forms = _rows(run, data, limit)
    rows, prompts = _prompts(run, rows, left_out)
    screen.say(f"{len(rows)} pairs of form {', '.join(forms)} in {', '.join(sorted({row.language for row in rows}))}")
    if run.reward.judged:
        check_endpoint(run.judge)
    models = None
    if run.reward.from_logprobs:
        models = scoring_models(run, policy, run.model.reference)
    detector = LanguageDetector(run.languages.codes, run.gates.language_min_chars)
    scorer = reward_scorer(Shared(run, prompts, detector, models))
    assert scorer is not None, "checked"
    found: list[Judgement] = []
    with screen.stage("scoring") as progress:
        progress.total(len(rows))
        for start in range(0, len(rows), _AT_ONCE):
            block = rows[start : start + _AT_ONCE]
            found += _judgements(scorer, block, run.run.seed, left_out)
            progress.advance(len(block))
    if not found:
        raise UserError("no pair got two rewards:\n  " + "\n  ".join(left_out.lines()))
    folder = out or Path("runs") / "audit" / run.run.name
    page, files = write_audit(folder, f"Reward {run.reward.kind} of {run.run.name}", found, left_out.lines())
    screen.say(f"written: {', '.join(map(str, files))}")
    return page


def _loaded(config: Path, overrides: Sequence[str]) -> tuple[Config, Path]:
    if is_folder(config) and is_file(config / "config.yaml"):
        run = load_run_config(config, overrides)
        return run, run_policy(config, run.model.policy)
    run = resolved(load_config(config, overrides))
    return run, run.model.policy


def _check(config: Config) -> None:
    reward = config.reward
    if reward.kind == "cross_language":
        raise UserError("reward.kind: cross_language gives no scores; audit another kind")
    if reward.verified:
        raise UserError("reward.kind: the verifier compares with gold answers, which preference pairs have not")
    if reward.translates:
        raise UserError(
            "reward.prompt: translated needs the policy's translations of the answers; audit native or crosslingual"
        )
    if not config.languages.codes:
        raise UserError("languages.codes: missing; name the languages of the pairs that are to be audited")


def _rows(
    config: Config, data: Sequence[Path | str], limit: int | None
) -> tuple[list[Preference], LeftOut, tuple[str, ...]]:
    paths = (snapshot(str(place), "dataset", "--data") if is_hub_name(place) else place for place in data)
    reading = read_all(paths, config.languages.codes, config.languages.dominant)
    taken: dict[str, int] = {}
    kept = []
    for row in reading.rows:
        taken[row.language] = taken.get(row.language, 0) + 1
        if limit is None or taken[row.language] <= limit:
            kept.append(row)
    return kept, reading.left_out, reading.forms


def _prompts(config: Config, rows: Sequence[Preference], left_out: LeftOut) -> tuple[list[Preference], PromptSet]:
    """The rows that can be asked, under ids of their own, and their prompts.

    A reward whose prompt is cross-lingual is measured under the dominant language's prompt of the same id.
    """
    dominant = config.languages.dominant
    crosslingual = any(one.prompt == "crosslingual" for one in config.reward.logprobs.values())
    asked: dict[tuple[str, str], Prompt] = {}
    places: dict[tuple[str, str], str] = {}
    named: list[Preference] = []
    for row in rows:
        key = row.id.partition("@")[0]  # as the file has it: published forms are named by file and line besides
        number = 1
        while (key, row.language) in asked:
            number += 1
            key = f"{key.partition('#')[0]}#{number}"
        before, text = _last(row)
        asked[key, row.language] = Prompt(key, row.language, text, before=before)
        places[key, row.language] = row.where
        named.append(replace(row, id=key))
    kept = []
    for row in named:
        if crosslingual and (row.id, dominant) not in asked:
            left_out.add(f"no prompt of the same id in {dominant}, with which crosslingual asks", row.where)
        else:
            kept.append(row)
    if not kept:
        raise UserError(
            f"reward.prompt: crosslingual asks with the prompts in {dominant}, and no pair has one of its id; name a "
            "file with them too (--data), or audit reward.prompt native"
        )
    ids = tuple(dict.fromkeys(row.id for row in kept))
    return kept, PromptSet(ids, tuple(config.languages.codes), asked, places)


def _last(row: Preference) -> tuple[tuple[Message, ...], str]:
    if isinstance(row.prompt, str):
        return (), row.prompt
    return row.prompt[:-1], row.prompt[-1].content


def _judgements(scorer: Scorer, rows: Sequence[Preference], seed: int, left_out: LeftOut) -> Iterator[Judgement]:
    candidates = []
    keys: list[tuple[CandidateKey, CandidateKey]] = []
    for row in rows:
        # Which answer comes first must not tell which is the chosen one.
        first = stable_seed("audit", seed, row.language, row.id) % 2
        pair = tuple(
            CandidateKey(1, row.id, row.language, "policy", row.language, sample) for sample in (first, 1 - first)
        )
        keys.append((pair[0], pair[1]))
        texts = zip(pair, (row.chosen, row.rejected), strict=True)
        candidates += [Candidate(key, text, TokenIds(), "stop", 0) for key, text in texts]
    scores = {score.key: score.reward for score in scorer.score(sorted(candidates, key=lambda one: one.key)).scores}
    for row, (chosen, rejected) in zip(rows, keys, strict=True):
        if chosen in scores and rejected in scores:
            yield Judgement.of(row, scores[chosen], scores[rejected])
        else:
            left_out.add("an answer got no reward (too long, or the judge failed)", row.where)
