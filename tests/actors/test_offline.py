"""Preference files: what is read from them, and what is refused, with file:line, field and cure, before the start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.observe.screen import Screen
from actors.plan.placement import PlacementPlan
from actors.train.offline import OfflineTrack, check_offline
from actors.train.track import RunParts
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config
from learners.encode import ChatEncoder
from rollout.preferences import Preference, digest, load_preferences, offline_pairs, rounds_of
from rollout.records import Message, Pair
from rollout.store import Store
from rollout.store_export import export_parquet
from tests.kits.learner import TEMPLATE, make_folder, make_tokenizer

ROW = {"prompt": "q", "chosen": "good", "rejected": "bad"}
CHAT = [Message("system", "be kind"), Message("user", "one"), Message("assistant", "two"), Message("user", "three")]


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message._asdict() for message in messages]


def config_for(path: Path | str, *overrides: str) -> Config:
    preset = ["offline.pairs_per_round=null", "run.min_free_disk_gb=0", f"offline.path={path}"]
    return load_config(Path("configs/offline.yaml"), [*preset, *overrides])


def written(folder: Path, rows: Sequence[Any], name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def loaded(folder: Path, *rows: Any, more: Sequence[str] = ()) -> list[Preference]:
    return load_preferences(config_for(written(folder, rows), *more))


def refused(folder: Path, *rows: Any, more: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as error:
        check_offline(config_for(written(folder, rows), *more))
    return str(error.value)


def test_the_preset_reads_the_committed_pairs() -> None:
    inputs = check_offline(load_config(Path("configs/offline.yaml")))
    assert len(inputs.preferences) == 1152
    assert inputs.config.schedule.rounds == 3
    assert {one.language for one in inputs.preferences} == {"en"}


def test_plain_rows_and_defaults(tmp_path: Path) -> None:
    first, second = loaded(tmp_path, ROW, ROW | {"id": 7, "language": "sw"})
    assert (first.id, first.language, first.prompt) == ("pairs.jsonl:1", "en", "q")
    assert (second.id, second.language, second.where) == ("7", "sw", f"{tmp_path}/pairs.jsonl:2")


@pytest.mark.parametrize("prompt", ["q", [Message("user", "q")], CHAT], ids=["text", "one turn", "chat"])
def test_all_forms_of_a_row_are_the_same_pair(tmp_path: Path, prompt: Any) -> None:
    messages = [Message("user", prompt)] if isinstance(prompt, str) else prompt
    good, bad = (turns([Message("assistant", text)]) for text in ("good", "bad"))
    whole = turns(messages)
    rows = [
        {"prompt": prompt if isinstance(prompt, str) else whole, "chosen": "good", "rejected": "bad"},
        {"prompt": whole, "chosen": good, "rejected": bad},
        {"prompt": whole, "chosen": whole + good, "rejected": whole + bad},
        {"chosen": whole + good, "rejected": whole + bad},
    ]
    expected = "q" if len(messages) == 1 else tuple(CHAT)
    assert {(one.prompt, one.chosen, one.rejected) for one in loaded(tmp_path, *rows)} == {(expected, "good", "bad")}


def test_parquet_folder_and_language_in_the_file_name_are_the_same_pairs(tmp_path: Path) -> None:
    rows = [
        {**ROW, "id": str(n), "prompt": turns(CHAT) if n % 2 else [{"role": "user", "content": str(n)}]}
        for n in range(4)
    ]
    for name in ("es", "sw"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    by_name = load_preferences(config_for(tmp_path / "{lang}.parquet"))
    assert [one.language for one in by_name] == ["es"] * 4 + ["sw"] * 4
    assert by_name[1].prompt == tuple(CHAT)
    assert by_name[1].where == f"{tmp_path}/es.parquet:2"
    (tmp_path / "sw.parquet").unlink()
    written(tmp_path, [row | {"language": "es"} for row in rows], "es.jsonl")
    (tmp_path / "es.parquet").unlink()
    assert digest(load_preferences(config_for(tmp_path))) == digest(by_name[:4])
    assert digest(by_name[:3]) != digest(by_name[:4])


BAD: list[tuple[Any, str]] = [
    ({"prompt": "q", "rejected": "b"}, "field 'chosen' is missing (the row has ['prompt', 'rejected']); add it, or"),
    ({"chosen": "a", "rejected": "b"}, "field 'prompt' is missing"),
    (ROW | {"chosen": " "}, "field 'chosen' is empty; fill it in"),
    (ROW | {"rejected": []}, "field 'rejected' is an empty list"),
    (ROW | {"rejected": "good "}, "chosen and rejected are equal; remove the row"),
    (ROW | {"prompt": 3}, "field 'prompt' is a number instead of a text"),
    (ROW | {"prompt": [{"role": "bot", "content": "x"}]}, "message 1: unknown role bot; use one of system, user"),
    (ROW | {"prompt": ["x"]}, "message 1: not a message; write {"),
    (ROW | {"prompt": turns(CHAT[:3])}, "'prompt' ends with a turn of 'assistant'; it must end with a user's turn"),
    (ROW | {"chosen": turns(CHAT[:2])}, "field 'chosen' holds system, user after the prompt instead of one turn"),
    (ROW | {"language": "Klingonese"}, "language 'Klingonese' is no language code"),
    (ROW | {"prompt": "x" * 300}, "tokens, more than model.max_length 256; raise it, or set offline.skip_longer"),
    ("[1]", "a list instead of an object"),
    ("{oops", "not valid JSON at column 2"),
    ("", "blank line; remove it"),
    ('{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "half of a surrogate pair"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_rows(tmp_path: Path, folder: Path, row: Any, message: str) -> None:
    found = refused(tmp_path, ROW, row, more=[f"model.policy={folder}"])
    assert found.startswith("1 bad row(s)")
    assert f"\n  {tmp_path}/pairs.jsonl:2: " in found
    assert message in found


def test_the_first_ten_problems_and_their_number(tmp_path: Path) -> None:
    found = refused(tmp_path, *[{"prompt": "q"}] * 13, ROW)
    assert found.startswith("13 bad row(s)")
    assert found.count("pairs.jsonl:") == 10
    assert found.endswith("and 3 more")


def test_ids_twice_and_foreign_languages(tmp_path: Path) -> None:
    rows = [ROW | {"id": "a"}, ROW | {"id": "a", "language": "sw"}, ROW | {"id": "a"}]
    assert f"pairs.jsonl:3: id 'a' of language 'en' was already used in {tmp_path}/pairs.jsonl:1" in refused(
        tmp_path, *rows
    )
    assert "language 'sw' is not in languages.codes" in refused(tmp_path, rows[1], more=["languages.codes=[en]"])


def test_bad_files(tmp_path: Path) -> None:
    def message(path: Path | str) -> str:
        with pytest.raises(UserError) as error:
            load_preferences(config_for(path))
        return str(error.value)

    assert "no such file" in message(tmp_path / "nowhere.jsonl")
    assert "no such file" in message(tmp_path / "nowhere.parquet")
    assert "names no .jsonl, .json, .csv" in message(tmp_path)
    assert "names no" in message(tmp_path / "{lang}.jsonl")
    (tmp_path / "a.jsonl").write_text("")
    assert "the file is empty" in message(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    assert "a.jsonl:1: byte 13 is not UTF-8 (0xff)" in message(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_text("no parquet")
    assert "cannot be read as parquet" in message(tmp_path / "a.parquet")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "b.parquet")
    assert "the file is empty" in message(tmp_path / "b.parquet")
    (tmp_path / "a.xlsx").write_text("x")
    assert "is none of .jsonl, .json, .csv" in message(tmp_path / "a.xlsx")


def test_longer_pairs_can_be_left_out_and_are_counted(tmp_path: Path, folder: Path) -> None:
    path = written(tmp_path, [ROW, ROW | {"chosen": "x" * 300}, ROW])
    inputs = check_offline(config_for(path, f"model.policy={folder}", "offline.skip_longer=true"))
    assert (len(inputs.preferences), inputs.left_out) == (2, 1)
    with pytest.raises(UserError, match="none of 3 pairs fits model.max_length 8"):
        check_offline(config_for(path, f"model.policy={folder}", "offline.skip_longer=true", "model.max_length=8"))


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda value: value.strip())
different = st.tuples(text, text, text).filter(lambda row: row[1].strip() != row[2].strip())


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(different, min_size=1, max_size=8), per_round=st.none() | st.integers(1, 9))
def test_every_row_is_in_exactly_one_round(tmp_path_factory: pytest.TempPathFactory, rows: Any, per_round: Any) -> None:
    folder = tmp_path_factory.mktemp("rows")
    found = loaded(folder, *(dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows))
    assert [(one.prompt, one.chosen, one.rejected) for one in found] == rows
    rounds = [offline_pairs(found, per_round, number + 1) for number in range(rounds_of(found, per_round))]
    assert all(rounds)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pairs in rounds for pair in pairs] == rows
    assert len({pair.id for pairs in rounds for pair in pairs}) == len(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def test_a_chat_is_encoded_as_the_template_puts_it(folder: Path, tmp_path: Path) -> None:
    encoder = ChatEncoder(folder)
    expected: Any = encoder.tokenizer.apply_chat_template(turns(CHAT), add_generation_prompt=True, return_dict=True)
    assert encoder.prompt_ids(tuple(CHAT)) == expected["input_ids"]
    assert encoder.prompt_ids((Message("user", "q"),)) == encoder.prompt_ids("q")
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    make_tokenizer(no_system + TEMPLATE).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its chat template refuses the prompt's turns"):
        ChatEncoder(tmp_path).prompt_ids(tuple(CHAT))


def test_a_chat_comes_back_from_the_journal(tmp_path: Path) -> None:
    tricky = json.dumps(turns(CHAT))  # a text that looks like a stored chat stays a text
    prompts: list[str | tuple[Message, ...]] = [tuple(CHAT), tricky, "q"]
    pairs = [
        Pair(f"p{n}", 1, str(n), "en", "offline", prompt, "a", "b", 1.0, 0.0, 0) for n, prompt in enumerate(prompts)
    ]
    with Store.open(tmp_path / "store.sqlite", "digest") as store:
        assert store.put_pairs(1, pairs)
        assert store.pairs(1) == pairs
        assert not store.put_pairs(1, pairs)
        exported = pq.read_table(export_parquet(store, tmp_path)["pairs"]).to_pylist()
    assert json.loads(exported[0]["prompt"])[0] == ["system", "be kind"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts.train=x/{lang}.jsonl", "prompts.train: offline training samples no answers; set it to null"),
        ("anchor={path: a.jsonl, pairs_per_round: 3}", "anchor.pairs_per_round: offline training takes its pairs"),
        ("learner.reference=previous_round", "learner.reference: previous_round would move the reference"),
        ("offline={path: a.jsonl, moving_reference: true}", "offline.moving_reference: there is one round only"),
        ("offline.path=null", "languages.codes: missing; name the run's languages"),
        ("offline.pair_per_round=1", "did you mean offline.pairs_per_round?"),
    ],
)
def test_contradictions(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(Path("configs/offline.yaml"), [override])
    assert message in str(error.value)


def test_rloo_is_refused_whether_or_not_it_is_known() -> None:
    with pytest.raises(UserError, match="learner.objective: "):
        load_config(Path("configs/offline.yaml"), ["learner.objective=rloo"])


def test_nothing_but_the_learner_is_placed() -> None:
    plan = PlacementPlan.from_config(load_config(Path("configs/offline.yaml")))
    assert [role.name for role in plan.roles] == ["store", "learner"]
    assert plan.totals() == {"CPU": 1.0, "GPU": 0.0}


class Journal:
    """A team of which only the journal exists."""

    def __init__(self, store: Store) -> None:
        self.store = store


def test_a_file_that_changed_under_a_run_is_refused(tmp_path: Path, folder: Path) -> None:
    path = written(tmp_path, [ROW, ROW | {"prompt": "other"}])
    inputs = check_offline(config_for(path, f"model.policy={folder}"))
    written(tmp_path, [ROW, ROW | {"prompt": "changed"}])
    changed = check_offline(config_for(path, f"model.policy={folder}"))
    with Store.open(tmp_path / "store.sqlite", "digest") as store:
        store.set_round_state(1, "paired", {"offline_digest": digest(inputs.preferences)})
        parts = RunParts(changed.config, Journal(store), Screen(), None)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"pairs.jsonl holds other pairs than when round 1 .* restore it"):
            OfflineTrack(parts, changed).begin()
