"""Requests of a round, translations, language detection and gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.sampling import RolloutConfig
from rollout.feeds import FILLS, deal
from rollout.gates import apply_gates, gate_counts
from rollout.language import LanguageDetector
from rollout.plan import (
    Chunk,
    answer_chunks,
    answer_languages,
    finish_candidate,
    load_untranslated,
    parse_translation,
    translation_chunks,
    translation_counts,
)
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey
from rollout.templates import TRANSLATION_PRIME
from rollout.token_ids import TokenIds
from tests.kits.rollout import candidate, lidr_config, make_config, make_prompts, write_lines


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), make_config(), 11)


@settings(max_examples=40, deadline=None)
@given(per_round=st.integers(1, 15), chunk=st.integers(1, 8), samples=st.integers(2, 4), round=st.integers(1, 5))
def test_chunks_hold_every_request_once(
    prompts: PromptSet, per_round: int, chunk: int, samples: int, round: int
) -> None:
    config = make_config(
        rollout={"prompts_per_round": per_round, "chunk_prompts": chunk, "samples_per_prompt": samples}
    )
    chunks = answer_chunks(config, prompts, round)
    keys = [request.key for c in chunks for request in c.requests]
    assert len(set(keys)) == len(keys) == min(per_round, 11) * 3 * samples
    assert len({c.id for c in chunks}) == len(chunks)
    assert len({request.seed for c in chunks for request in c.requests}) == len(keys)
    for c in chunks:
        assert {r.key.language for r in c.requests} == {c.language} == {c.origin}
        assert 0 < len({r.key.prompt_id for r in c.requests}) <= chunk
        assert all(r.prompt == prompts.get(r.key.prompt_id, c.language).text for r in c.requests)
    assert chunks == answer_chunks(config, prompts, round)


def test_request_carries_the_sampling_settings(prompts: PromptSet) -> None:
    config = make_config(
        rollout__temperature=0.7, rollout__top_p=0.9, rollout__top_k=20, rollout__max_new_tokens=33, run__seed=5
    )
    request = answer_chunks(config, prompts, 1)[0].requests[0]
    assert (request.temperature, request.top_p, request.top_k, request.max_new_tokens) == (0.7, 0.9, 20, 33)
    assert request.prime == ""
    assert request.seed != answer_chunks(make_config(), prompts, 1)[0].requests[0].seed


def test_samples_of_a_prompt_take_the_temperatures_in_turn(prompts: PromptSet) -> None:
    config = make_config(
        rollout__temperatures=[1.0, 0.4, 0.0, 0.7], rollout__samples_per_prompt=6, rollout__temperature=2.0
    )
    for chunk in answer_chunks(config, prompts, 1):
        for request in chunk.requests:
            assert request.temperature == [1.0, 0.4, 0.0, 0.7, 1.0, 0.4][request.key.sample]
    plain = make_config(rollout__samples_per_prompt=6, rollout__temperature=0.7)
    of_plain = [one.seed for chunk in answer_chunks(plain, prompts, 1) for one in chunk.requests]
    assert of_plain == [one.seed for chunk in answer_chunks(config, prompts, 1) for one in chunk.requests]
    assert config.rollout.unused == ("rollout.temperature: 2 is not used, rollout.temperatures go before it",)
    assert plain.rollout.unused == ()


@pytest.mark.parametrize(
    ("lidr", "shares", "both", "answered", "translated"),
    [
        (False, {}, True, "en es fr", set()),
        (False, {"en": 0}, True, "es fr", set()),
        (True, {}, True, "en es fr", {"en-es", "en-fr", "es-en", "fr-en"}),
        (True, {}, False, "en es fr", {"en-es", "en-fr"}),
        (True, {"en": 0}, True, "en es fr", {"en-es", "en-fr"}),
        (True, {"es": 0}, True, "en es fr", {"en-fr", "es-en", "fr-en"}),
        (True, {"es": 0}, False, "en fr", {"en-fr"}),
        (True, {"en": 0, "es": 0}, True, "en fr", {"en-fr"}),
        (True, {"es": 0, "fr": 0}, True, "en es fr", {"es-en", "fr-en"}),
    ],
)
def test_languages_that_nothing_needs_are_left_out(
    prompts: PromptSet, lidr: bool, shares: dict[str, float], both: bool, answered: str, translated: set[str]
) -> None:
    make = lidr_config if lidr else make_config
    config = make(languages__shares=shares, candidates__both_directions=both)
    assert " ".join(answer_languages(config)) == answered
    found = set()
    for chunk in answer_chunks(config, prompts, 1):
        answers = [Candidate(r.key, "texto", TokenIds((1, 2)), "stop", 0) for r in chunk.requests]
        found |= {f"{c.origin}-{c.language}" for c in translation_chunks(config, chunk, answers).chunks}
    assert found == translated


def test_translated_reward_translates_into_the_dominant_language_only(prompts: PromptSet) -> None:
    config = make_config(reward__prompt="translated")
    for chunk in answer_chunks(config, prompts, 1):
        answers = [Candidate(r.key, "texto", TokenIds((1, 2)), "stop", 0) for r in chunk.requests]
        plan = translation_chunks(config, chunk, answers)
        assert [c.language for c in plan.chunks] == ([] if chunk.language == "en" else ["en"])


def test_translation_requests(prompts: PromptSet) -> None:
    config = lidr_config(candidates__translation_max_new_tokens=77)
    chunk = next(c for c in answer_chunks(config, prompts, 2) if c.language == "en")
    changes: list[dict[str, Any]] = [
        {},
        {"text": " "},
        {"finish_reason": "length"},
        {"gate": "language"},
        {"text": "long " * 9},
        {},
    ]
    answers = [
        Candidate(r.key, **{"text": "an answer", "token_ids": (1,), "finish_reason": "stop", "weight_version": 1, **c})
        for r, c in zip(chunk.requests, changes, strict=True)
    ]
    untranslated = frozenset({chunk.requests[5].key.prompt_id})
    fits = lambda prompt: "long long" not in prompt  # noqa: E731
    plan = translation_chunks(config, chunk, answers[::-1], frozenset(), fits)
    assert plan.skipped == {
        ("en", code, why): 1 for code in ("es", "fr") for why in ("empty", "truncated", "language", "too_long")
    }
    spanish, french = plan.chunks
    assert (spanish.id, spanish.stage, spanish.language, spanish.origin) == (
        "r0002/translate/en-es/0000",
        "translate",
        "es",
        "en",
    )
    first = spanish.requests[0]
    assert first.key == CandidateKey(2, chunk.requests[0].key.prompt_id, "es", "translation", "en", 0)
    assert (first.temperature, first.prime, first.max_new_tokens) == (0.0, TRANSLATION_PRIME, 77)
    assert "into Spanish" in first.prompt
    assert "an answer" in first.prompt
    assert "into French" in french.requests[0].prompt
    about = translation_chunks(config, chunk, answers, untranslated)
    assert about.skipped["en", "es", "about_translation"] == 3
    with pytest.raises(ValueError, match="not those that it asks for"):
        translation_chunks(config, chunk, answers[1:])


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("Hola.\n</translation>", "stop", ("Hola.", "ok")),
        ("Hola.\n</translation> and more </translation>", "length", ("Hola.", "ok")),
        ("<translation>\nHola.\n</translation>", "stop", ("Hola.", "ok")),
        (" Hola. ", "stop", ("Hola.", "salvaged")),
        ("Hola.", "length", (None, "failed")),
        ("", "stop", (None, "failed")),
        ("\n</translation>", "stop", (None, "failed")),
    ],
)
def test_parse_translation(text: str, finish: str, expected: tuple[str | None, str]) -> None:
    assert parse_translation(text, finish) == expected


def test_finished_candidates_and_their_counts() -> None:
    key = CandidateKey(1, "p0", "es", "translation", "en", 0)
    good = finish_candidate(key, "Hola\n</translation>", [5, 6], "stop", 3)
    bad = finish_candidate(key, "Hola", [5, 6], "length", 3)
    plain = finish_candidate(CandidateKey(1, "p0", "es", "policy", "es", 0), " Hola\n", [5], "stop", 3)
    assert (good.text, good.gate, good.translation, good.token_ids) == ("Hola", "ok", "ok", (5, 6))
    assert (bad.text, bad.gate, bad.translation) == ("", "translation_failed", "failed")
    assert (plain.text, plain.gate, plain.translation, plain.weight_version) == ("Hola", "ok", None, 3)
    assert translation_counts([good, bad, plain]) == {"en-es": {"ok": 1, "salvaged": 0, "failed": 1}}


def test_untranslated_ids(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "ids.jsonl", [{"id": "p1"}, {"id": 7}])
    assert load_untranslated(lidr_config(candidates__untranslated_ids=path)) == {"p1", "7"}
    assert load_untranslated(lidr_config()) == frozenset()
    write_lines(path, [{"id": "p1"}, {"id": "p1"}])
    with pytest.raises(UserError, match=r"ids\.jsonl:2: id \"p1\" was already used in line 1; remove"):
        load_untranslated(lidr_config(candidates__untranslated_ids=path))


SENTENCES = {
    "en": ["She buys fresh apples at the market every Saturday.", "The capital of the country lies by the sea."],
    "es": ["Ella compra manzanas frescas en el mercado cada sábado.", "La capital del país está junto al mar."],
    "fr": ["Elle achète des pommes fraîches au marché chaque samedi.", "La capitale du pays est au bord de la mer."],
    "de": ["Sie kauft jeden Samstag frische Äpfel auf dem Markt.", "Die Hauptstadt des Landes liegt am Meer."],
    "ru": ["Каждую субботу она покупает на рынке свежие яблоки.", "Столица страны лежит у моря."],
    "sw": ["Kila Jumamosi yeye hununua matofaa sokoni.", "Mji mkuu wa nchi hiyo uko karibu na bahari."],
}


def test_detector_knows_real_sentences() -> None:
    detector = LanguageDetector(list(SENTENCES))
    assert detector.undetectable == ()
    for code, sentences in SENTENCES.items():
        assert [detector.detect(text) for text in sentences] == [code] * len(sentences)


def test_detector_is_unsure_rather_than_wrong() -> None:
    detector = LanguageDetector(list(SENTENCES), min_chars=8)
    assert detector.detect("Paris") is None
    assert detector.detect("12345 67890 + 3") is None
    assert detector.detect("print(x) ok") is None
    assert detector.detect("") is None
    assert LanguageDetector(list(SENTENCES), min_chars=200).detect(SENTENCES["de"][0]) is None


def test_detector_names_a_foreign_script_undetermined() -> None:
    assert LanguageDetector(["en", "es"]).detect("東京は日本の首都です。とても大きい。") == "und"
    assert LanguageDetector(["en"]).detect(SENTENCES["ru"][0]) == "und"


def test_detector_falls_back_to_scripts_and_lists_what_it_cannot_tell() -> None:
    detector = LanguageDetector(["en", "am", "ha", "km"])
    assert detector.undetectable == ("ha",)
    assert detector.detect("አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት።") == "am"
    assert detector.detect("ភ្នំពេញជារាជធានីនៃប្រទេសកម្ពុជា") == "km"
    hausa = "Abuja ita ce babban birnin Najeriya."
    assert detector.detect(hausa, "ha") is None
    assert LanguageDetector(["en", "am", "ti"]).undetectable == ("am", "ti")
    assert LanguageDetector(["hi", "ne"]).undetectable == ("ne",)


def test_regional_codes_are_one_language() -> None:
    detector = LanguageDetector(["en", "pt-BR", "pt-PT", "no"])
    text = "A capital do país fica perto do mar e é muito bonita."
    assert detector.detect(text) == "pt-BR"
    assert detector.detect(text, "pt-PT") == "pt-PT"
    assert detector.detect("Hun kjøper ferske epler på torget hver lørdag.") == "no"


def test_gates() -> None:
    detector = LanguageDetector(["en", "es"])
    spanish, english = SENTENCES["es"][0], SENTENCES["en"][0]
    rows = [
        candidate(sample=3, text=spanish),
        candidate(sample=0, text="", finish_reason="length"),
        candidate(sample=1, text=spanish),
        candidate(sample=2, text=english),
        candidate(sample=4, text=spanish, finish_reason="length"),
        candidate(sample=5, text="Sí."),
        candidate(sample=1, text=spanish, source="translation", origin="en", translation="ok", finish_reason="length"),
        candidate(sample=2, text="", source="translation", origin="en", translation="failed"),
        candidate(prompt_id="p1", sample=9, text=spanish),
    ]
    judged = apply_gates(make_config().gates, rows, detector)
    assert [c.gate for c in judged] == [
        "duplicate",
        "empty",
        "ok",
        "language",
        "truncated",
        "ok",
        "ok",
        "translation_failed",
        "ok",
    ]
    assert [c.detected_language for c in judged[2:6]] == ["es", "en", "es", None]
    assert apply_gates(make_config().gates, judged, detector) == judged
    assert gate_counts(judged)["policy"]["es"] == {
        "duplicate": 1,
        "empty": 1,
        "language": 1,
        "ok": 3,
        "truncated": 1,
    }
    backwards = apply_gates(make_config().gates, rows[::-1], detector)
    assert backwards[::-1] == judged  # the lowest sample index stays, whatever the order
    free = apply_gates(make_config().gates, rows, detector, any_language=frozenset({"p0"}))
    assert free[3].gate == "ok"


def test_gates_that_are_off_let_everything_pass_but_failed_translations() -> None:
    off = make_config(gates={"language": False, "truncated": False, "empty": False, "duplicates": False}).gates
    rows = [
        candidate(sample=0, text=""),
        candidate(sample=1, text=SENTENCES["en"][0]),
        candidate(sample=2, text=SENTENCES["en"][0], finish_reason="length"),
        candidate(sample=3, text="", source="translation", origin="en", translation="failed"),
    ]
    judged = apply_gates(off, rows, LanguageDetector(["en", "es"]))
    assert [c.gate for c in judged] == ["ok", "ok", "ok", "translation_failed"]
    assert judged[1].detected_language == "en"


def test_a_gated_first_sample_does_not_make_its_equal_a_duplicate() -> None:
    rows = [candidate(sample=0, finish_reason="length"), candidate(sample=1)]
    judged = apply_gates(make_config().gates, rows, LanguageDetector(["en", "es"]))
    assert [c.gate for c in judged] == ["truncated", "ok"]


@given(chunks=st.integers(1, 40), languages=st.integers(1, 6), actors=st.integers(1, 5), slots=st.integers(1, 40))
def test_feeds_hold_every_chunk_once(chunks: int, languages: int, actors: int, slots: int) -> None:
    made = [
        Chunk(f"c{n}", 1, "answer", f"l{n % languages}", f"l{n % languages}", (None,) * 10)  # type: ignore[arg-type]
        for n in range(chunks)
    ]
    rollout = RolloutConfig(actors=actors, max_num_seqs=slots)
    feeds = deal(rollout, made)
    assert sorted((chunk.id for feed in feeds for chunk in feed), key=lambda name: int(name[1:])) == [
        chunk.id for chunk in made
    ]
    assert all(feed == sorted(feed, key=made.index) for feed in feeds)
    sizes = [len(feed) for feed in feeds]
    assert max(sizes) - min(sizes) <= 1, "feeds of one round take about as long as each other"
    assert max(sizes) <= max(1, FILLS * slots // 10 + 1)
    assert len(feeds) == chunks or len(feeds) % actors == 0
    # What an actor more or less does not change once the run has begun.
    assert deal(rollout.model_copy(update={"streams": actors, "actors": actors + 1}), made) == feeds


def test_languages_take_turns_in_a_feed() -> None:
    made = [Chunk(f"c{n}", 1, "answer", f"l{n % 6}", f"l{n % 6}", ()) for n in range(12)]
    for feed in deal(RolloutConfig(actors=2), made):
        assert {chunk.language for chunk in feed} == {f"l{n}" for n in range(6)}
