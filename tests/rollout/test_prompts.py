"""Prompt files: every bad input is refused with file:line and a cure; languages; cursor; lengths."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import PromptsConfig
from rollout.cursor import round_prompt_ids
from rollout.languages import DEFAULT_NAMES, language_name
from rollout.prompts import PromptSet, check_lengths
from rollout.seeds import stable_seed
from tests.kits.rollout import make_config, make_prompts, write_lines, write_prompts

GOOD = {"id": "p9", "prompt": "Hola", "answer": "x"}


def load(pattern: str, **options: Any) -> PromptSet:
    limit = options.pop("limit", None)
    return PromptSet.load(pattern, make_config().languages, PromptsConfig(**options), limit=limit)


def test_joined_by_id_in_the_order_of_the_dominant_language(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path, 3)
    rows = [{"id": f"p{i}", "prompt": f"es {i}", "answer": "a"} for i in (2, 0, 1)]
    write_lines(tmp_path / "es.jsonl", rows)
    prompts = load(pattern)
    assert prompts.ids == ("p0", "p1", "p2")
    assert prompts.get("p2", "es").text == "es 2"
    assert prompts.location("p2", "es") == f"{tmp_path / 'es.jsonl'}:1"
    assert prompts.languages == ("en", "es", "fr")
    assert prompts.has_answers


def test_integer_ids_join_strings_and_limit_applies_after_joining(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path, 3, answers=False)
    write_lines(tmp_path / "en.jsonl", [{"id": i, "prompt": "q"} for i in (7, 8)])
    write_lines(tmp_path / "es.jsonl", [{"id": str(i), "prompt": "q"} for i in (8, 7)])
    write_lines(tmp_path / "fr.jsonl", [{"id": i, "prompt": "q"} for i in (8, 7)])
    prompts = load(pattern, limit=1)
    assert prompts.ids == ("7",)
    assert set(prompts.rows) == {("7", "en"), ("7", "es"), ("7", "fr")}
    assert not prompts.has_answers


def test_numeric_answers_are_texts(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path, 1)
    write_lines(tmp_path / "es.jsonl", [{"id": "p0", "prompt": "q", "answer": 42}])
    assert load(pattern).get("p0", "es").answer == "42"


@pytest.mark.parametrize(
    ("row", "expected", "cure"),
    [
        (b"", "es.jsonl:7: blank line", "remove it"),
        (b"   ", "es.jsonl:7: blank line", "remove it"),
        (b'{"id": "p9", "prompt"', "es.jsonl:7: not valid JSON at column 22", "one complete JSON object"),
        (b'{"id": "p9", "prompt": "caf\xe9"}', "es.jsonl:7: byte 28 is not UTF-8 (0xe9)", "save the file as UTF-8"),
        (["p9", "Hola"], "es.jsonl:7: a list instead of an object", "write {"),
        ({"prompt": "Hola"}, "es.jsonl:7: field 'id' is missing", "set prompts.id_field"),
        ({"id": True, "prompt": "Hola"}, "es.jsonl:7: field 'id' is true or false", "a text or an integer"),
        ({"id": 1.5, "prompt": "Hola"}, "es.jsonl:7: field 'id' is a number", "a text or an integer"),
        ({"id": " ", "prompt": "Hola"}, "es.jsonl:7: field 'id' is empty", "fill it in"),
        ({"id": "p9", "text": "Hola"}, "es.jsonl:7: field 'prompt' is missing", "set prompts.text_field"),
        ({"id": "p9", "prompt": " \n"}, "es.jsonl:7: field 'prompt' is empty", "fill it in or remove the row"),
        ({"id": "p9", "prompt": 3}, "es.jsonl:7: field 'prompt' is a number", "quotes"),
        ({"id": "p9", "prompt": None}, "es.jsonl:7: field 'prompt' is null", "fill it in or remove the row"),
        ({"id": None, "prompt": "Hola"}, "es.jsonl:7: field 'id' is null", "fill it in or remove the row"),
        ({**GOOD, "answer": ""}, "es.jsonl:7: field 'answer' is empty", "fill it in"),
        ({**GOOD, "answer": [1]}, "es.jsonl:7: field 'answer' is a list", "write the text"),
        (b'{"id": "p9", "prompt": "\\ud800 x"}', "es.jsonl:7: field 'prompt' has half of a surrogate", "character"),
        ({**GOOD, "id": "p3"}, "es.jsonl:7: id 'p3' was already used in line 4", "its own id"),
        (b'{"id": ' + b"[" * 100_000, "es.jsonl:7: ", "write one"),
    ],
)
def test_bad_row_is_refused_by_file_and_line(tmp_path: Path, row: Any, expected: str, cure: str) -> None:
    pattern = write_prompts(tmp_path)
    path = tmp_path / "es.jsonl"
    path.write_bytes(path.read_bytes() + write_lines(tmp_path / "bad", [row]).read_bytes())
    with pytest.raises(UserError) as caught:
        load(pattern)
    assert str(caught.value).startswith(f"{tmp_path}/{expected}")
    assert cure in str(caught.value)


def test_missing_file_names_the_language(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path)
    (tmp_path / "fr.jsonl").unlink()
    with pytest.raises(UserError, match=r"fr\.jsonl: no such file .*language 'fr'.*correct the path"):
        load(pattern)


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\n"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    pattern = write_prompts(tmp_path)
    (tmp_path / "fr.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"fr\.jsonl: the file is empty .*'fr'.*one JSON object on each line"):
        load(pattern)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path)
    (tmp_path / "fr.jsonl").unlink()
    (tmp_path / "fr.jsonl").mkdir()
    with pytest.raises(UserError, match=r"fr\.jsonl: is a folder; name a file"):
        load(pattern)


def test_byte_order_mark(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path)
    path = tmp_path / "en.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(UserError, match=r"en\.jsonl:1: .*byte-order mark; save .* without BOM"):
        load(pattern)


def test_ids_missing_in_another_language(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path, 8)
    write_lines(tmp_path / "es.jsonl", [{"id": "p1", "prompt": "q", "answer": "a"}])
    with pytest.raises(UserError) as caught:
        load(pattern)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'es.jsonl'}: 7 id(s) of language 'en' are missing in language 'es': 'p0'")
    assert "'p2', 'p3', 'p4', 'p5' and 2 more" in message
    assert f"{tmp_path / 'en.jsonl'}:1" in message
    assert "add them or remove them" in message


def test_ids_missing_in_the_dominant_language(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path, 2)
    path = tmp_path / "es.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "new", "prompt": "q", "answer": "a"}\n')
    with pytest.raises(UserError, match=r"es\.jsonl:3: 1 id\(s\) of language 'es' are missing .*'new'; add them"):
        load(pattern)


def test_answers_in_some_rows_only(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path, 2)
    write_lines(tmp_path / "fr.jsonl", [{"id": "p0", "prompt": "q", "answer": "a"}, {"id": "p1", "prompt": "q"}])
    with pytest.raises(
        UserError, match=r"fr\.jsonl:2: field 'answer' is missing here and in 0 other.*prompts\.answer_"
    ):
        load(pattern)
    assert load(pattern, answer_field=None).has_answers is False


def test_from_config(tmp_path: Path) -> None:
    pattern = write_prompts(tmp_path, 3, answers=False)
    assert PromptSet.from_config(make_config(prompts={"train": pattern, "limit": 2})).ids == ("p0", "p1")
    with pytest.raises(UserError, match=r"prompts\.heldout: .*add a path"):
        PromptSet.from_config(make_config(prompts__train=pattern), "heldout")
    with pytest.raises(UserError, match=r"no row has field 'answer', which reward.kind verifier needs; add"):
        PromptSet.from_config(make_config(prompts__train=pattern, reward__kind="verifier"))


def test_too_long_prompts(tmp_path: Path) -> None:
    config = make_config()
    prompts = make_prompts(tmp_path, config)
    check_lengths(prompts, lambda text: 10, 20, lambda code: 10)
    with pytest.raises(UserError) as caught:
        check_lengths(prompts, lambda text: 11 + int("3" in text) if "país" in text else 5, 20, lambda code: 10)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'es.jsonl'}:1: the prompt has 11 tokens")
    assert "leaves 10; 6 prompt(s) are too long, the longest has 12" in message
    assert "at least 22" in message


def test_language_names() -> None:
    assert language_name("sw", {}) == "Swahili"
    assert language_name("pt-BR", {}) == "Brazilian Portuguese"
    assert language_name("sw", {"sw": "Kiswahili"}) == "Kiswahili"
    assert len(DEFAULT_NAMES) > 100
    assert all(name[0].isupper() and name == name.strip() for name in DEFAULT_NAMES.values())
    with pytest.raises(UserError, match=r"languages\.names\.tlh: no English name.*add one"):
        language_name("tlh", {})


def test_every_language_of_the_detector_has_a_name() -> None:
    lingua = pytest.importorskip("lingua")
    codes = {language.iso_code_639_1.name.lower() for language in lingua.Language.all()}
    assert codes <= set(DEFAULT_NAMES)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5), st.integers(1, 12))
def test_cursor_takes_each_id_once_a_round_and_once_an_epoch(size: int, n: int, seed: int, rounds: int) -> None:
    ids = [f"p{i}" for i in range(size)]
    taken = [round_prompt_ids(ids, r, n, seed) for r in range(1, rounds + 1)]
    assert taken == [round_prompt_ids(ids, r, n, seed) for r in range(1, rounds + 1)]
    assert all(len(set(t)) == len(t) == min(n, size) for t in taken)
    flat = [i for t in taken for i in t]
    for start in range(0, len(flat) - size + 1, size):
        assert set(flat[start : start + size]) == set(ids)
    counts = Counter(flat)
    assert max(counts.values()) - min(counts[i] for i in ids) <= 1


def test_cursor_depends_on_the_seed_and_shuffles() -> None:
    ids = [f"p{i}" for i in range(50)]
    assert round_prompt_ids(ids, 1, 50, 0) != round_prompt_ids(ids, 1, 50, 1)
    assert round_prompt_ids(ids, 1, 50, 0) != round_prompt_ids(ids, 2, 50, 0)
    assert round_prompt_ids(ids, 1, 20, 0) != tuple(ids[:20])
    with pytest.raises(ValueError, match="at least 1"):
        round_prompt_ids(ids, 0, 20, 0)


def test_seeds_are_stable_and_distinct() -> None:
    assert stable_seed("a", 1) == 7904893000240948126  # written down: another machine must get the same
    assert stable_seed("a", "bc") != stable_seed("ab", "c")
    assert stable_seed(1) != stable_seed("1")
    assert len({stable_seed("x", i) for i in range(1000)}) == 1000
