"""Named sources: what a config may say of them, which questions they are asked, and answers from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config
from rollout.answer_files import left_out_lines, load_answers
from rollout.assignment import Block, assigned
from rollout.dataset import dataset_rows, write_dataset
from rollout.gates import apply_gates
from rollout.language import LanguageDetector
from rollout.pairs import mine_pairs
from rollout.plan import answer_chunks, foreign_candidate, translation_chunks
from rollout.preferences import load_preferences
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Pair, Score
from rollout.sources import scored, sources
from rollout.store_schema import candidate_of, candidate_row
from rollout.token_ids import TokenIds
from tests.kits.rollout import candidate, make_config, make_prompts, write_lines

STRONG = {"base_url": "http://localhost:1/v1", "model": "strong-1"}
DIRECT = {"kind": "endpoint", "name": "direct", "endpoint": "strong"}
ENGLISH = {"kind": "endpoint", "name": "english", "endpoint": "weak", "languages": ["en"], "scored": False}
TRANSLATED = {"kind": "translation", "name": "translated", "of": "english", "by": "weak"}
BY_SOURCE = {"miner": "by_source", "chosen": ["direct"], "rejected": ["translated"], "require_reward_agreement": True}


def dang(*named: dict[str, Any], **changes: Any) -> Config:
    """Direct answers of a strong model against English ones of a weak one that were translated."""
    return make_config(
        **{
            "endpoints": {"strong": STRONG, "weak": {**STRONG, "model": "weak-1"}},
            "candidates": {"sources": list(named or (DIRECT, ENGLISH, TRANSLATED))},
            "reward": {"kind": "verifier"},
            "pairs": BY_SOURCE,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), make_config(), 4)


def test_who_is_asked_what(prompts: PromptSet) -> None:
    """English is asked of the weak one only to be translated; its own pairs would lack a rejected side."""
    config = dang()
    chunks = answer_chunks(config, prompts, 1)
    assert [(c.source, c.language, len(c.requests)) for c in chunks[:4]] == [
        ("direct", "en", 2),
        ("english", "en", 2),
        ("direct", "es", 2),
        ("direct", "fr", 2),
    ]
    assert chunks[1].id == "r0001/answer/english/en/0000"
    assert chunks[1].requests[0].prompt == prompts.get(chunks[1].requests[0].key.prompt_id, "en").text
    english = [foreign_candidate(r.key, "Fine.", False, "weak-1", ((1,), True)) for r in chunks[1].requests]
    plan = translation_chunks(config, chunks[1], english)
    assert [(c.id, c.source, c.origin, c.language) for c in plan.chunks] == [
        ("r0001/translate/translated/en-es/0000", "translated", "en", "es"),
        ("r0001/translate/translated/en-fr/0000", "translated", "en", "fr"),
    ]
    assert plan.chunks[0].requests[0].prompt == "Fine."  # the server's own template is put around it
    assert not translation_chunks(config, chunks[0], english[:0] or _answers(chunks[0])).chunks


def _answers(chunk: Any) -> list[Candidate]:
    return [foreign_candidate(r.key, "Text.", False, None, ((1,), True)) for r in chunk.requests]


def test_answers_are_translated_for_the_languages_of_their_block_alone(prompts: PromptSet) -> None:
    config = dang()
    ids = assigned(config, prompts, 1).blocks[0].order
    block = Block(0, ids, {"es": ids[:1], "fr": ids[1:]})
    english = next(c for c in answer_chunks(config, prompts, 1) if c.source == "english")
    plan = translation_chunks(config, english, _answers(english), block=block)
    assert {c.language: [r.key.prompt_id for r in c.requests] for c in plan.chunks} == {"es": [ids[0]], "fr": [ids[1]]}


def test_foreign_candidates_have_no_version_and_keep_what_their_text_does_not_show() -> None:
    key = CandidateKey(1, "p0", "es", "direct", "es", 0)
    good = foreign_candidate(key, "Una respuesta.", False, "strong-1", ((4, 5), True))
    assert (good.weight_version, good.model, good.token_ids, good.gate) == (None, "strong-1", (4, 5), "ok")
    assert candidate_of(candidate_row(good, "c")) == good
    none = foreign_candidate(key, None, False, None, ((), True))
    long = foreign_candidate(key, "Una respuesta.", False, None, ((4, 5), False))
    moved = CandidateKey(1, "p0", "es", "translated", "en", 0)
    untranslated = foreign_candidate(moved, None, False, None, ((), True))
    judged = apply_gates(make_config().gates, [none, long, untranslated], LanguageDetector(["en", "es"]))
    assert [one.gate for one in judged] == ["unanswered", "too_long", "translation_failed"]


def test_pairs_of_foreign_answers_are_never_stale(prompts: PromptSet) -> None:
    config = dang()
    rows = [
        candidate("p0", "es", text="Directa.", source="direct", weight_version=None),
        candidate("p0", "es", text="Traducida.", source="translated", origin="en", weight_version=None),
        candidate("p0", "en", text="English.", source="english", weight_version=None),
    ]
    assert [one.key.source for one in scored(config, rows)] == ["direct", "translated"]
    scores = [Score(rows[0].key, 2.0), Score(rows[1].key, 1.0)]
    mined = mine_pairs(config, prompts, 1, rows, scores)
    (pair,) = mined.pairs
    assert (pair.chosen, pair.rejected, pair.weight_version) == ("Directa.", "Traducida.", 0)
    assert mined.agreement == {"es": {"compared": 1, "disagreeing": 0}}
    worse = mine_pairs(config, prompts, 1, rows, [Score(rows[0].key, 0.0), Score(rows[1].key, 1.0)])
    assert (worse.pairs, worse.counters["es"]["reward_disagrees"]) == ((), 1)
    assert worse.agreement == {"es": {"compared": 1, "disagreeing": 1}}


def test_lidr_named_is_lidr(prompts: PromptSet) -> None:
    """The sources of LIDR, named: the same chunks, and the same pairs."""
    short = make_config(candidates__source="self_translation", reward__kind="cross_language")
    policy = {"kind": "policy"}
    own = {"kind": "translation", "name": "translation", "of": "policy", "both_directions": True, "scored": False}
    named = make_config(candidates__sources=[policy, own], reward__kind="cross_language")
    assert answer_chunks(named, prompts, 1) == answer_chunks(short, prompts, 1)
    for chunk in answer_chunks(short, prompts, 1):
        answers = [Candidate(r.key, f"Text {r.key.sample}", TokenIds((1, 2)), "stop", 0) for r in chunk.requests]
        assert translation_chunks(named, chunk, answers) == translation_chunks(short, chunk, answers)
    assert [source.directions for source in sources(named)] == [source.directions for source in sources(short)]


ALONE = {"candidates": {"sources": [DIRECT]}, "endpoints": {"strong": STRONG}}
FILE = {"kind": "file", "name": "human", "path": "", "fields": {"text": "response"}}


def test_answers_from_a_file(tmp_path: Path, prompts: PromptSet) -> None:
    rows = [
        {"id": "p1", "language": "es", "response": "Una. ", "model": "m"},
        {"id": "p1", "language": "es", "response": "Otra."},
        {"id": "p1", "language": "es", "response": "Tercera."},
        {"id": "p9", "language": "es", "response": "Nadie."},
    ]
    path = write_lines(tmp_path / "answers.jsonl", rows)
    config = make_config(candidates__sources=[{"kind": "policy"}, {**FILE, "path": str(path), "samples": 2}])
    found = load_answers(config, prompts)["human"]
    assert found.texts == {("p1", "es"): [("Una.", "m"), ("Otra.", None)]}
    assert (found.unmatched, found.beyond) == (1, 1)
    assert left_out_lines({"human": found}) == [
        "source 'human' leaves out 1 rows of ids that are no prompt here and 1 rows beyond its samples",
        "source 'human' has no answer to some of the 4 prompts: 4 in en, 3 in es, 4 in fr",
    ]
    spanish = {**FILE, "path": str(path), "samples": 2, "languages": ["es"]}
    config = make_config(candidates__sources=[{"kind": "policy"}, spanish])
    assert load_answers(config, prompts)["human"].unanswered == {"es": 3}
    config = make_config(candidates__sources=[{"kind": "policy"}, {**spanish, "languages": ["fr"]}])
    with pytest.raises(UserError, match=r"none of the 4 rows .*; 4 are in other languages than fr"):
        load_answers(config, prompts)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"id": "x", "language": "es", "response": "a"},
            r"sources\.1\.path: none of the 1 rows .* \(first: .*jsonl:1\)",
        ),
        ({"id": "p1", "language": "de", "response": "a"}, r"jsonl:1: language 'de' is not in languages\.codes"),
        ({"id": "p1", "language": "es"}, r"jsonl:1: field 'response' is missing .*sources\.1\.fields\.text"),
        ({"id": "p1", "response": "a"}, r"jsonl:1: field 'language' is missing .*sources\.1\.fields\.language"),
        (b'{"id": "p1", "language": "es", "response": "\xff"}', r"jsonl:1: byte 45 is not UTF-8"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, prompts: PromptSet, row: Any, expected: str) -> None:
    path = write_lines(tmp_path / "answers.jsonl", [row])
    config = make_config(candidates__sources=[{"kind": "policy"}, {**FILE, "path": str(path)}])
    with pytest.raises(UserError, match=expected):
        load_answers(config, prompts)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ALONE, r"pairs\.rejected: 'translated' is no source of this run; it has direct"),
        ({**ALONE, "pairs": {}}, r"miner best_worst needs at least 2 scored candidates"),
        (
            {"candidates": {"sources": [DIRECT, TRANSLATED]}},
            r"sources\.1\.of: 'english' is no source of this run; it has direct, translated",
        ),
        (
            {"candidates": {"sources": [{**DIRECT, "endpoint": "stong"}, ENGLISH, TRANSLATED]}},
            r"sources\.0\.endpoint: 'stong' is not in endpoints \(there: strong, weak\)",
        ),
        (
            {"candidates": {"sources": [{**DIRECT, "languages": ["en", "en"]}, ENGLISH, TRANSLATED]}},
            r"sources\.0\.languages: 'en' is named twice",
        ),
        ({"rollout": {"temperatures": [1.0, 0.5]}}, r"temperatures: no source of candidates\.sources is the policy"),
        ({"candidates": {"sources": [DIRECT, DIRECT]}}, r"sources\.1\.name: 'direct' is named twice"),
        (
            {"candidates": {"sources": [DIRECT, {**ENGLISH, "languages": ["fr"]}, TRANSLATED]}},
            r"sources\.2\.origin: 'english' gives no answers in 'en' \(its languages: fr\)",
        ),
        ({"endpoints": {"strong": STRONG, "weak": STRONG, "third": STRONG}}, r"endpoints\.third: no source asks it"),
        ({"endpoints": {"strong": {"base_url": "http://localhost:1/v1"}, "weak": STRONG}}, r"endpoints\.strong\.model"),
        ({"candidates": {"sources": [{**DIRECT, "path": "x"}]}}, "path"),
        ({"learner": {"objective": "rloo"}}, r"sources: learner\.objective rloo learns from the policy's own"),
        (
            {"candidates": {"sources": [DIRECT], "source": "self_translation"}},
            r"candidates\.source: self_translation stands beside candidates\.sources",
        ),
    ],
)
def test_sources_that_do_not_hang_together_are_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        dang(**change)


def test_a_data_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The names of its columns must not be those of another tool's form, in which they mean something else."""
    pairs = [Pair(f"r0001/en/p{i}", 1, f"p{i}", "en", "mined", "Why?", "good", "bad", 1.0, 0.0, 0) for i in range(3)]
    path = write_dataset(dataset_rows(pairs, {}, 0, "1", "policy"), tmp_path)
    read = load_preferences(load_config(Path("configs/offline.yaml"), [f"offline.path={path}"]))
    assert [(one.prompt, one.chosen, one.rejected, one.language) for one in read] == [("Why?", "good", "bad", "en")] * 3
