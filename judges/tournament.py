"""A reward from comparisons: which candidates of a prompt meet, and what each is worth afterwards. Pure.

Each candidate meets the same number of others, ``judge.comparisons_per_candidate`` or as many as there are; its reward
is the mean of its preferences, its share of wins with ties as halves. With n candidates and k comparisons each a prompt
costs n*k/2 comparisons, that is n*k questions: every comparison is asked in both orders. Meeting everyone (k = n-1)
orders the candidates best, and costs the square of n.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from configs.schema import Config
from judges.records import Item, Verdict
from rollout.gates import passed
from rollout.language import answer_part
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Score, text_of_turns
from rollout.sources import scored

Matchup = tuple[CandidateKey, CandidateKey]  # as answer a, as answer b


def matchups(count: int, comparisons: int) -> list[tuple[int, int]]:
    """Who meets whom: pairs (i, j), i < j, sorted, in which each of ``count`` has equally many.

    That number is ``comparisons``, or one fewer where both are odd (no such schedule exists), or ``count - 1`` where
    that is all there are. The schedule is a ring: i meets those 1, 2, ... places on.
    """
    if count - 1 <= comparisons:
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    pairs = {tuple(sorted((i, (i + step) % count))) for i in range(count) for step in range(1, comparisons // 2 + 1)}
    if comparisons % 2 and count % 2 == 0:
        pairs |= {(i, i + count // 2) for i in range(count // 2)}
    return sorted((i, j) for i, j in pairs)


def tournament(
    config: Config, prompts: PromptSet, candidates: Sequence[Candidate]
) -> tuple[list[Item], list[Matchup], Counter[tuple[str, str]]]:
    """The comparisons of a chunk.

    Args:
        config: The run.
        prompts: Train prompts; the native instruction is what the judge sees.
        candidates: All of the chunk, judged by the gates. Only those of scored sources that passed take part.

    Returns:
        Items in a fixed order, who meets in each, and (language, why) -> candidates that do not take part; why is
        "gated" or "alone".
    """
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    kept, skipped = passed(scored(config, candidates))
    for candidate in sorted(kept, key=lambda c: c.key):
        groups[candidate.key.language, candidate.key.prompt_id].append(candidate)
    items: list[Item] = []
    pairs: list[Matchup] = []
    for (language, prompt_id), group in groups.items():
        if len(group) == 1:
            skipped[language, "alone"] += 1
        instruction = text_of_turns(prompts.get(prompt_id, language).turns)
        for i, j in matchups(len(group), config.judge.comparisons_per_candidate):
            a, b = group[i], group[j]
            name = f"{prompt_id}/{a.key.sample:03d}-{b.key.sample:03d}"
            items.append(Item(name, language, instruction, answer_part(a.text), answer_part(b.text)))
            pairs.append((a.key, b.key))
    return items, pairs, skipped


def tournament_scores(
    pairs: Sequence[Matchup], verdicts: Sequence[Verdict]
) -> tuple[list[Score], Counter[tuple[str, str]]]:
    """Rewards, sorted by key: the mean preference over a candidate's verdicts.

    ``parts`` counts a candidate's "comparisons" with a verdict, of them "inconsistent" ones, and those without one
    ("failed", of them "unparsed"). A candidate without any verdict has no score.

    Returns:
        Scores, and (language, "judge_failed") -> candidates without one.
    """
    met: dict[CandidateKey, list[tuple[float | None, Verdict]]] = defaultdict(list)
    for (a, b), verdict in zip(pairs, verdicts, strict=True):
        preference = verdict.preference
        met[a].append((preference, verdict))
        met[b].append((None if preference is None else 1 - preference, verdict))
    scores: list[Score] = []
    skipped: Counter[tuple[str, str]] = Counter()
    for key, found in sorted(met.items()):
        values = [preference for preference, _ in found if preference is not None]
        if not values:
            skipped[key.language, "judge_failed"] += 1
            continue
        parts = {
            "comparisons": float(len(values)),
            "inconsistent": float(sum(verdict.inconsistent for _, verdict in found)),
            "failed": float(len(found) - len(values)),
            "unparsed": float(sum(verdict.unparsed for _, verdict in found)),
        }
        scores.append(Score(key, sum(values) / len(values), parts))
    return scores, skipped


def comparison_counts(
    config: Config, candidates: Sequence[Candidate], scores: Sequence[Score]
) -> dict[str, dict[str, int]]:
    """Of a round, by language: comparisons that count, inconsistent ones among them, failed ones.

    Counted from the journal's rows, so that a resumed run gives the same.
    """
    taking_part = Counter((c.key.language, c.key.prompt_id) for c in scored(config, candidates) if c.gate == "ok")
    out: dict[str, dict[str, int]] = {}
    for (language, _), count in sorted(taking_part.items()):
        row = out.setdefault(language, {"comparisons": 0, "inconsistent": 0, "failed": 0})
        row["failed"] += len(matchups(count, config.judge.comparisons_per_candidate))
    for language, row in out.items():
        # Each comparison with a verdict stands in the parts of both its candidates.
        for name in ("comparisons", "inconsistent"):
            row[name] = int(sum(score.parts[name] for score in scores if score.key.language == language)) // 2
        row["failed"] -= row["comparisons"]
    return out
