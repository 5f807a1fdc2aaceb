"""Sampling by language, and chat templates that a config names: what a run makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.engine.requests import until
from actors.plan.fertility import fertility, fertility_cure, fertility_line
from actors.plan.preflight import check_inputs
from actors.train.dry_run import check_readable
from configs.errors import UserError
from configs.load import dump_yaml, load_config
from configs.schema import ModelConfig
from evaluation.heldout import heldout_chunks
from learners.chat_template import ChatTemplate, with_values
from learners.encode import ChatEncoder
from learners.model_files import fill_model_folder
from rollout.plan import answer_chunks
from tests.kits.learner import TEMPLATE, make_folder
from tests.kits.rollout import make_config, make_prompts, write_lines
from tests.kits.run import small_config

THINKING = "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}"


def test_a_round_asks_for_what_the_config_says(tmp_path: Path) -> None:
    rollout = {"max_new_tokens": 64, "max_new_tokens_by_language": {"spa": 96}, "min_p": 0.05, "stop": ["\n\nUser:"]}
    config = make_config(rollout={**rollout, "repetition_penalty": 1.1, "chunk_prompts": 8})
    prompts = make_prompts(tmp_path, config)
    asked = {one.key.language: one for chunk in answer_chunks(config, prompts, 1) for one in chunk.requests}
    assert {code: one.max_new_tokens for code, one in asked.items()} == {"en": 64, "es": 96, "fr": 64}
    assert (asked["es"].min_p, asked["es"].repetition_penalty, asked["es"].stop) == (0.05, 1.1, ("\n\nUser:",))
    greedy = heldout_chunks(config, prompts, 0)[0].requests[0]
    # What is measured is the policy, not what sampling makes of it; where an answer ends is the same.
    assert (greedy.min_p, greedy.repetition_penalty, greedy.stop) == (0.0, 1.0, ("\n\nUser:",))
    with pytest.raises(ValueError, match="max_new_tokens_by_language.sw: is no language of the run"):
        make_config(rollout={"max_new_tokens_by_language": {"sw": 9}})
    with pytest.raises(ValueError, match="max_new_tokens_by_language.es: 512 leaves no room for a prompt"):
        make_config(rollout={"max_new_tokens_by_language": {"es": 512}})


def test_an_answer_ends_before_the_first_of_its_stops() -> None:
    assert until("a END b STOP", ("STOP", "END")) == "a "
    assert until("a", ("STOP",)) == until("a", ()) == "a"


def test_all_ends_of_the_generation_config_end_an_answer(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    encoder = ChatEncoder(folder)
    own = encoder.end_of_turn_id
    other = encoder.tokenizer.bos_token_id if encoder.tokenizer.bos_token_id not in (None, own) else own + 1
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [other, own]}))
    again = ChatEncoder(folder)
    assert again.end_of_turn_id == own
    assert again.stop_ids == (own, other)


def test_languages_that_need_more_tokens_are_named_with_the_cure(tmp_path: Path) -> None:
    config = make_config(languages={"codes": ["en", "th"]}, rollout={"max_new_tokens": 100})
    for code, text in (("en", "ab cd"), ("th", "กกกกก")):
        write_lines(tmp_path / f"{code}.jsonl", [{"id": n, "prompt": text} for n in range(3)])
    from rollout.prompts import PromptSet

    prompts = PromptSet.load(str(tmp_path / "{lang}.jsonl"), config.languages)
    found = fertility(prompts, lambda text: len(text.encode()))
    assert fertility_line(found).endswith("en 1.00, th 3.00 (3.0 times en)")
    cure = fertility_cure(found, config.rollout)
    assert cure == (
        "answers in th are cut off earlier than in en: rollout.max_new_tokens_by_language: {th: 300} gives them the "
        "same room"
    )
    set_right = make_config(
        languages={"codes": ["en", "th"]}, rollout={"max_new_tokens": 100, "max_new_tokens_by_language": {"th": 300}}
    )
    assert fertility_cure(found, set_right.rollout) is None
    assert fertility_cure(fertility(prompts, lambda text: 1), config.rollout) is None


def test_a_dry_run_shows_tokens_a_character(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_readable(small_config(tmp_path), elsewhere=False)
    assert "tokens a character, and tokens for the same prompts: en " in capsys.readouterr().out


@pytest.mark.parametrize("written", ["file", "inline"])
def test_a_template_of_the_config_is_used_everywhere_and_kept(tmp_path: Path, written: str) -> None:
    folder = make_folder(tmp_path / "model")
    template = THINKING + TEMPLATE
    (tmp_path / "mine.jinja").write_text(template)
    model = ModelConfig(
        policy=folder,
        chat_template=str(tmp_path / "mine.jinja") if written == "file" else template,
        chat_template_kwargs={"enable_thinking": True},
    )
    assert model.chat_template == template
    encoder = ChatEncoder.of(model, folder)
    plain = ChatEncoder(folder)
    assert encoder.decode(encoder.prompt_ids("q")).startswith("<think>")
    assert encoder.template.text is not None
    assert plain.template.text is None
    # A checkpoint has the template with its values, for every program that loads it.
    out = tmp_path / "out"
    out.mkdir()
    fill_model_folder(out, {}, folder, "float32", encoder.template.text)
    assert ChatEncoder(out).prompt_ids("q") == encoder.prompt_ids("q") != plain.prompt_ids("q")
    assert ChatEncoder.of(model, out).prompt_ids("q") == encoder.prompt_ids("q")


def test_a_long_template_file_is_kept_in_the_runs_config(tmp_path: Path) -> None:
    path = tmp_path / "long.jinja"
    path.write_text("{# " + "x" * 9000 + " #}" + TEMPLATE)
    config = load_config(Path("configs/demo.yaml"), [f"model.chat_template={path}"])
    kept = tmp_path / "config.yaml"
    kept.write_text(dump_yaml(config))
    assert load_config(kept).model.chat_template == path.read_text()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.jinja", "model.chat_template: nowhere.jinja: no such chat template"),
        ("{plain}", "model.chat_template: {path} is no chat template, which has"),
    ],
)
def test_what_is_no_template_is_refused(tmp_path: Path, value: str, message: str) -> None:
    if value == "{plain}":
        value = str(tmp_path / "plain.txt")
        Path(value).write_text("hello")
    with pytest.raises(UserError, match=message.replace("{path}", value)):
        load_config(Path("configs/demo.yaml"), [f"model.chat_template={value}"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a-b": 1}, "chat_template_kwargs.a-b: is no name of a template's variable"),
        ({"messages": []}, "chat_template_kwargs.messages: is no name"),
        ({"a": object()}, "chat_template_kwargs.a: has a value that no template can hold"),
    ],
)
def test_values_that_no_template_takes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_values("{{ x }}", values)


def test_values_reach_the_template_as_they_are(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    shown = "\n{{ [flag, none_, number, text, list, map] | tojson }}" + TEMPLATE
    values = {"flag": False, "none_": None, "number": 1.5, "text": "é'\"\\\n", "list": [1, "a"], "map": {"k": True}}
    tokenizer = ChatEncoder(folder).tokenizer
    rendered = ChatTemplate(folder, tokenizer, None, shown, values).render([{"role": "user", "content": "q"}])
    assert rendered.startswith("\n[")  # the template's own first line is as it was
    assert json.loads(rendered[1 : rendered.index("]]") + 2 if "]]" in rendered else rendered.index("}]") + 2]) == list(
        values.values()
    )


def test_a_template_of_the_config_is_tried_before_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree("worlds/default/policy", folder)
    config = small_config(tmp_path, f"model.policy={folder}", "model.chat_template='{% for m in messages %}'")
    with pytest.raises(UserError, match="its chat template has a syntax error in line 1"):
        check_inputs(config)
