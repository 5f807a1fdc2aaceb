"""Chat templates are tried before they are trusted; texts never become control tokens; one date a run."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from actors.plan.colocate import learner_threads, usable_cores
from actors.plan.positions import check_positions
from actors.plan.preflight import check_plain
from actors.train.offline import check_offline
from actors.train.run_folder import dated, open_run_folder
from configs.errors import UserError
from configs.load import load_config
from learners.chat_template import ChatTemplate
from learners.encode import ChatEncoder
from rollout.preferences import Preference, load_preferences
from rollout.prompts import PromptSet
from rollout.records import Message
from tests.kits.learner import SPECIALS, TEMPLATE, make_folder, make_tokenizer
from tests.kits.run import small_config

DATED = "{{ strftime_now('%d %b %Y %H:%M:%S') }}" + TEMPLATE
PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save(folder: Path, template: str | None = TEMPLATE, eos: list[int] | None = None) -> Path:
    make_tokenizer(template).save_pretrained(folder)
    if eos is not None:
        GenerationConfig(eos_token_id=eos).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PARTS, r"the text of the user's turn 0 times instead of once .*takes the content as a list of parts"),
        ("<|user|>{{ messages[0]['content'] }}<|end|>", r"the assistant's turn 0 times instead of once into a chat; c"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", r"user's turn 2 times instead of once"),
        ("{% for m in messages|reverse %}{{ m['content'] }}{% endfor %}", r"puts the answer in front of the question"),
        ("{% if add_generation_prompt %}<|assistant|>{% else %}" + TEMPLATE + "{% endif %}", r"user's turn 0 times"),
        ("{{ messages[0].content|upper }}", r"user's turn 0 times"),
        ("a\n{% for m in messages %}{{ m['content'] }}", r"has a syntax error in line 2: Unexpected end of template"),
        ("{% nonsense %}", r"has a syntax error in line 1: Encountered unknown tag 'nonsense'"),
        ("{{ messages + 1 }}", r"fails on a question with its answer \(TypeError: can only concatenate list"),
        ("{{ messages[0]['content'] / 2 }}", r"fails on a question with its answer \(TypeError: "),
        ("{{ undefined.attribute }}", r"fails on .*UndefinedError: 'undefined' is undefined"),
        ("{{ raise_exception('never') }}", r"fails on .*TemplateError: never"),
        ("{{ 1 // 0 }}", r"fails on .*ZeroDivisionError"),
    ],
)
def test_templates_of_no_use_are_refused_with_the_reason(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}: its chat template .*{message}"):
        ChatEncoder(save(tmp_path, template))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"tool_use": TEMPLATE, "rag": TEMPLATE},
            r"several chat templates \(rag, tool_use\) and none called 'default'",
        ),
        (7, "a chat template that is int instead of text"),
        ("", "no chat template"),
        ({"default": 3}, "a chat template that is int"),
    ],
)
def test_templates_that_are_no_text(tmp_path: Path, template: Any, message: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        ChatTemplate(tmp_path, tokenizer)
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": "{{ 1 / 0 }}"}
    assert ChatTemplate(tmp_path, tokenizer).render([{"role": "user", "content": "q"}]) == "<|user|>q<|end|>"


def test_templates_may_trim_and_say_more(tmp_path: Path) -> None:
    kind = "{{ bos_token }}<|user|>Be kind.<|end|>{% for m in messages %}<|{{ m.role }}|>{{ m.content|trim }}<|end|>\n"
    found = ChatEncoder(save(tmp_path, kind + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"))
    assert found.template.between == "<|end|>\n<|assistant|>"
    assert found.prompt_ids(" q ") == found.prompt_ids("q")


SILENT = TEMPLATE.replace("%}", " if m['role'] != 'system' %}", 1)


def test_a_template_that_leaves_a_turn_out_without_a_word_is_refused(tmp_path: Path) -> None:
    chat = (Message("system", "Be kind."), Message("user", "q"))
    silent = ChatEncoder(save(tmp_path / "silent", SILENT))
    assert silent.prompt_ids("q")
    with pytest.raises(UserError, match=r"leaves out the system's turn of a chat of system, user; put what the system"):
        silent.prompt_ids(chat)
    with pytest.raises(UserError, match=r"leaves out the system's turn"):  # as often as it is asked
        silent.prompt_lengths([chat])
    folded = (
        "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n' %}{% set messages = messages[1:] %}"
    )
    folds = ChatEncoder(save(tmp_path / "folds", folded + "{% endif %}{{ s|default('') }}" + TEMPLATE))
    assert folds.tokenizer.decode(folds.prompt_ids(chat)) == "Be kind.\n<|user|>q<|end|><|assistant|>"
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    with pytest.raises(
        UserError, match=r"refuses the prompt's turns \(no system role\); put what the system turn says"
    ):
        ChatEncoder(save(tmp_path / "refuses", refuses)).prompt_ids(chat)
    last = "{% for m in messages[-1:] %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    with pytest.raises(UserError, match=r"puts the text of the user's turn 0 times"):
        ChatEncoder(save(tmp_path / "last", last))
    pairs = TEMPLATE.replace("in messages", "in messages[-2:]", 1)
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    with pytest.raises(UserError, match=r"leaves out the user's turn of a chat of user, assistant, user; change the t"):
        ChatEncoder(save(tmp_path / "pairs", pairs)).prompt_ids(turns)


@pytest.mark.parametrize("token", [*SPECIALS, "<|end|><|assistant|>"])
@pytest.mark.parametrize("text", ["{}", "a {} b", "{}{}", "isoglossplaintext {}"])
def test_a_prompt_cannot_spell_a_special_token(tmp_path: Path, token: str, text: str) -> None:
    encoder = ChatEncoder(save(tmp_path, "{{ bos_token }}" + TEMPLATE))
    asked = text.replace("{}", token)
    plain = asked
    for special in SPECIALS:
        plain = plain.replace(special, "~" * len(special))
    found, expected = encoder.prompt_ids(asked), encoder.prompt_ids(plain)
    special_ids = set(encoder.tokenizer.all_special_ids)
    kept = [(place, number) for place, number in enumerate(found) if number in special_ids]
    assert kept == [(place, number) for place, number in enumerate(expected) if number in special_ids]
    assert asked in encoder.tokenizer.decode(found)
    assert encoder.prompt_ids((Message("user", asked),)) == found
    assert "".join(encoder.spelled(asked)) == token * text.count("{}")
    assert encoder.prompt_ids("plain", prime="<x>")[-3:] == encoder.completion_ids("<x>")[:-1]
    # In every turn of a chat.
    chat = (Message("user", "q"), Message("assistant", asked), Message("user", "r"))
    assert encoder.prompt_ids(chat).count(encoder.end_of_turn_id) == 3


APPLIED = [
    (
        {"prompt": "<|user|>q<|end|><|assistant|>", "chosen": "a", "rejected": "b"},
        "the prompt went through .*assistant",
    ),
    ({"prompt": "<s><|user|>q<|end|><|assistant|>x<|end|><|user|>r<|end|><|assistant|>"}, "the prompt went through"),
    ({"prompt": [{"role": "user", "content": "<|user|>q<|end|><|assistant|>\n"}]}, "the prompt went through"),
    ({"chosen": "a<|end|>\n"}, r"the chosen answer went through .*ends in '<\|end\|>'"),
    ({"rejected": "b<|end|>"}, "the rejected answer went through"),
]


@pytest.mark.parametrize(("row", "message"), APPLIED)
def test_rows_with_the_template_applied_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    folder = make_folder(tmp_path / "model")
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"} | row]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    overrides = [f"offline.path={path}", f"model.policy={folder}", "offline.pairs_per_round=null"]
    with pytest.raises(UserError, match=rf"1 bad row\(s\).*\n.*pairs.jsonl:2: {message}.*as messages"):
        check_offline(load_config(Path("configs/offline.yaml"), overrides))


def test_texts_that_speak_of_special_tokens_are_plain_text_and_counted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "What is <|end|> for?", "chosen": "<|end|> ends a turn.", "rejected": "<s> or </s>, who knows."}
    path.write_text(json.dumps(row) + "\n")
    overrides = [f"offline.path={path}", f"model.policy={folder}", "offline.pairs_per_round=null"]
    assert check_offline(load_config(Path("configs/offline.yaml"), overrides)).spelled == 3


def test_prompt_files_with_the_template_applied_are_refused(tmp_path: Path) -> None:
    encoder = ChatEncoder(make_folder(tmp_path / "model"))
    for text, accepted in (("a <|end|> b", True), ("<|user|>q<|end|><|assistant|>", False)):
        for code in ("en", "es", "sw"):
            row = {"id": "1", "prompt": text if code == "es" else "q"}
            (tmp_path / f"{code}.jsonl").write_text(json.dumps(row) + "\n")
        config = small_config(tmp_path, f"prompts.train={tmp_path}/{{lang}}.jsonl")
        prompts = PromptSet.from_config(config, "train")
        if accepted:
            assert check_plain(prompts, encoder) == 1
        else:
            with pytest.raises(UserError, match=r"es\.jsonl:1: the prompt went through the chat template already"):
                check_plain(prompts, encoder)


def test_templates_without_special_tokens_tell_by_the_end(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'Answer: ' }}{{ m.content }}\n{% endfor %}"
    template = ChatEncoder(save(tmp_path, plain + "{% if add_generation_prompt %}Answer: {% endif %}")).template
    assert template.applied("Q: q\nAnswer: ", SPECIALS) == "Answer:"
    assert template.applied("Why do they write 'Answer: ' there?", SPECIALS) is None


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        # Nothing after the last turn, but something between turns: that ended the samples.
        (TEMPLATE.replace("<|end|>", "{% if not loop.last %}<|end|>{% endif %}"), [3, 5], 5),
        (TEMPLATE.replace("<|end|>", ""), [4, 2], 2),  # nothing anywhere: the tokenizer's own end, if samples end there
        (TEMPLATE.replace("<|end|>", ""), [4, 5], 4),  # its own end is none of them
        (TEMPLATE.replace("<|end|>", "</s>"), [5, 2], 2),
    ],
)
def test_the_trained_end_is_the_templates(tmp_path: Path, template: str, eos: list[int], expected: int) -> None:
    assert ChatEncoder(save(tmp_path, template, eos)).end_of_turn_id == expected


def test_one_date_a_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(DATED)
    day = datetime.date(2024, 2, 29)
    first = ChatEncoder(folder, date=day)
    assert str(first.tokenizer.decode(first.prompt_ids("q"))).startswith("29 Feb 2024 00:00:00<|user|>")
    assert ChatEncoder(folder, date=day).prompt_ids("q") == first.prompt_ids("q")
    assert ChatEncoder(folder).prompt_ids("q") != first.prompt_ids("q")

    config = small_config(tmp_path / "runs", "run.name=begun", f"model.policy={folder}")
    begun = dated(config)
    assert begun.model.template_date is not None
    assert begun.rollout.streams == config.rollout.actors
    assert begun.learner.threads == learner_threads(config, usable_cores(config.cluster.num_cpus))
    old = begun.model_copy(update={"model": begun.model.model_copy(update={"template_date": day})})
    open_run_folder(old, resume=False).close()  # that day
    again = dated(config)
    assert again.model.template_date == day
    wider = small_config(tmp_path / "runs", "run.name=begun", f"model.policy={folder}", "rollout.actors=3")
    assert dated(wider).rollout.streams == config.rollout.actors, "an actor more changes no answer"
    open_run_folder(again, resume=True).close()
    other = small_config(
        tmp_path / "runs", "run.name=begun", f"model.policy={folder}", "model.template_date=2024-03-01"
    )
    with pytest.raises(UserError, match=r"model\.template_date: \"2024-02-29\" -> \"2024-03-01\""):
        open_run_folder(dated(other), resume=True)


def test_a_run_that_began_without_a_date_continues_without(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    open_run_folder(config, resume=False).close()
    assert dated(config) == config
    open_run_folder(dated(config), resume=True).close()


ROW = {"prompt": "q", "chosen": "good", "rejected": "bad"}
SYSTEM, ASKED = {"role": "system", "content": "be kind"}, {"role": "user", "content": "q"}
WHOLE = {
    name: [SYSTEM, ASKED, {"role": "assistant", "content": text}]
    for name, text in (("chosen", "good"), ("rejected", "bad"))
}
TURNS = {name: chat[1:] for name, chat in WHOLE.items()}


def rows(folder: Path, *found: dict[str, Any], more: tuple[str, ...] = ()) -> list[Preference]:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return load_preferences(load_config(Path("configs/offline.yaml"), [f"offline.path={path}", *more]))


@pytest.mark.parametrize(
    "row",
    [
        ROW | {"system": "be kind"},
        ROW | {"system": "be kind", "prompt": [ASKED]},
        ROW | {"prompt": [SYSTEM, ASKED]},
        ROW | {"system": "be kind", "prompt": [SYSTEM, ASKED]},
        ROW | WHOLE,  # prompt as text beside whole chats
        ROW | WHOLE | {"system": "be kind"},
        ROW | TURNS | {"system": "be kind"},
        {"system": "be kind", **TURNS},
        WHOLE,
        ROW | WHOLE | {"rejected": "bad"},
        ROW | TURNS | {"prompt": [SYSTEM, ASKED]},
    ],
)
def test_system_messages_become_the_first_turn(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = rows(tmp_path, row)
    assert found.prompt == (Message("system", "be kind"), Message("user", "q"))
    assert (found.chosen, found.rejected) == ("good", "bad")


def test_rows_without_a_system_message_are_as_before(tmp_path: Path) -> None:
    found = rows(tmp_path, ROW, ROW | {"system": None}, ROW | {"system": ""}, ROW | TURNS, ROW | {"history": []})
    assert [one.prompt for one in found] == ["q"] * 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW | {"system": "rude", "prompt": [SYSTEM, ASKED]}, "'system' and the system turn of the chat are different"),
        (ROW | WHOLE | {"system": "rude"}, "'system' and the system turn of the chat are different"),
        (ROW | WHOLE | {"rejected": TURNS["rejected"]}, "chosen and rejected begin with different system turns"),
        (ROW | {"system": 3}, "field 'system' is a number instead of a text"),
        (ROW | {"system_prompt": "be kind"}, "'system_prompt' would be left out .*set offline.system_field: system_pr"),
        (ROW | {"input": "more"}, "field 'input' would be left out of the prompt; put it into 'prompt', or remove"),
        (ROW | {"history": [["a", "b"]]}, "field 'history' would be left out of the prompt"),
    ],
)
def test_what_would_be_left_out_of_the_prompt_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"pairs\.jsonl:1: .*{message}"):
        rows(tmp_path, row)
    (found,) = rows(tmp_path, ROW | {"note": "be kind"}, more=("offline.system_field=note",))
    assert found.prompt == (Message("system", "be kind"), Message("user", "q"))


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 256}, 256),
        ({"n_positions": 256}, 256),
        ({"max_position_embeddings": 4096, "max_seq_len": 256}, 256),
        ({"text_config": {"max_position_embeddings": 256}, "vision_config": {"max_position_embeddings": 8}}, 256),
        ({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 256),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, 256),
        ({"max_position_embeddings": 256, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 256),
        ({"max_position_embeddings": 256, "rope_scaling": {"type": "yarn", "factor": 8.0}}, 256),
        ({"max_position_embeddings": 256, "rope_scaling": None, "rope_theta": 1e4}, 256),
        ({"max_position_embeddings": 64, "model_max_length": 256}, 256),
    ],
)
def test_more_than_the_models_positions_is_refused_before_the_start(
    tmp_path: Path, config: dict[str, Any], limit: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_positions(tmp_path, limit)
    with pytest.raises(UserError, match=rf"^model\.max_length: {limit + 1} tokens are more than the {limit} that the"):
        check_positions(tmp_path, limit + 1)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 100}))
    with pytest.raises(UserError, match=r"more than the 100 .*tokenizer_config\.json: model_max_length\); lower it"):
        check_positions(tmp_path, 101)


def test_unknown_positions_are_not_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    check_positions(tmp_path, 10**6)
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "rope_theta": 1e4}))
    check_positions(tmp_path, 65, trains_only=True)
