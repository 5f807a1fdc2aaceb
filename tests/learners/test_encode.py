"""One BOS, one end of turn, and messages for folders that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import GenerationConfig

from configs.errors import UserError
from learners.encode import ChatEncoder
from rollout.records import Message
from tests.kits.learner import TEMPLATE, make_folder, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def save(folder: Path, template: str | None, eos: int | list[int] | None = None) -> Path:
    make_tokenizer(template).save_pretrained(folder)
    if eos is not None:
        GenerationConfig(eos_token_id=eos).save_pretrained(folder)
    return folder


def test_prompt_and_completion(folder: Path) -> None:
    encoder = ChatEncoder(folder)
    user, assistant, end = map(encoder.tokenizer.convert_tokens_to_ids, ("<|user|>", "<|assistant|>", "<|end|>"))
    ids = encoder.prompt_ids("hi")
    assert (ids[0], ids[-2:], len(ids)) == (user, [end, assistant], 5)
    assert encoder.end_of_turn_id == end
    completion = encoder.completion_ids("ja, ñ")
    assert completion[-1] == end
    assert completion.count(end) == 1
    assert encoder.decode(completion) == "ja, ñ"
    assert encoder.prompt_ids("hi", prime="<x>")[:-3] == ids


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("template", [TEMPLATE, "{{ bos_token }}" + TEMPLATE, "{{ bos_token + bos_token }}" + TEMPLATE])
def test_lengths_of_many_prompts_are_those_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, add_bos: bool
) -> None:
    monkeypatch.setattr("learners.encode._AT_ONCE", 2)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    encoder = ChatEncoder(save(tmp_path, template), add_bos)
    prompts: list[str | tuple[Message, ...]] = [
        "hi",
        "",
        "<|end|> ñ 你好",
        "a " * 300,
        (Message("user", "x"), Message("assistant", "y"), Message("user", "z")),
    ]
    encoder.completion_ids("<|end|>")  # plain text: switches special tokens off in the tokenizer
    exact = [len(encoder.prompt_ids(prompt)) for prompt in prompts]
    assert encoder.prompt_lengths(prompts) == exact
    for enough in (0, 5, 40, 200, 100_000):
        for found, length in zip(encoder.prompt_lengths(prompts, enough), exact, strict=True):
            assert found == length or length <= found <= enough
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


@pytest.mark.parametrize("template", [TEMPLATE, "{{ bos_token }}" + TEMPLATE, "{{ bos_token + bos_token }}" + TEMPLATE])
@pytest.mark.parametrize("add_bos", [False, True])
def test_never_two_bos(tmp_path: Path, template: str, add_bos: bool) -> None:
    encoder = ChatEncoder(save(tmp_path, template), add_bos)
    ids = encoder.prompt_ids("hi")
    assert ids.count(encoder.tokenizer.bos_token_id) == int(add_bos or template != TEMPLATE)


@pytest.mark.parametrize("template", [TEMPLATE, "{{ bos_token }}" + TEMPLATE, "\n" + TEMPLATE])
def test_a_checkpoint_has_the_bos_that_was_trained_on(tmp_path: Path, template: str) -> None:
    """What renders the checkpoint's template, vLLM say, knows nothing of the run's ``model.add_bos``."""
    trained = ChatEncoder(save(tmp_path / "trained", template), add_bos=True)
    saved = ChatEncoder(save(tmp_path / "saved", trained.template.text or template))
    assert saved.tokenizer.chat_template == trained.tokenizer.chat_template
    text = saved.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    ids = saved.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == trained.prompt_ids("hi")
    assert ids[0] == saved.tokenizer.bos_token_id
    assert ChatEncoder(tmp_path / "saved", add_bos=True).template.text is None  # it has one already


def test_a_completion_cannot_spell_a_special_token(folder: Path) -> None:
    encoder = ChatEncoder(folder)
    assert encoder.completion_ids("a<|end|>b").count(encoder.end_of_turn_id) == 1


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (TEMPLATE, [2, 5], 5),  # of several, the one that the template puts
        (TEMPLATE, 2, 5),  # the template's special token, though generation stops at another
        (TEMPLATE.replace("<|end|>", "\n"), [3, 2], 3),  # the template puts none
        (TEMPLATE.replace("<|end|>", "\n"), None, 2),  # nor does generation_config: the tokenizer's
    ],
)
def test_end_of_turn(tmp_path: Path, template: str, eos: int | list[int] | None, expected: int) -> None:
    assert ChatEncoder(save(tmp_path, template, eos)).end_of_turn_id == expected


def test_missing_folder_and_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*no such model folder.*model.policy"):
        ChatEncoder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no tokenizer files"):
        ChatEncoder(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path.name}.*no chat template.*chat_template.jinja"):
        ChatEncoder(save(tmp_path, None))


@pytest.mark.parametrize("text", ["[", "[]", '{"eos_token_id": "two"}', '{"eos_token_id": [1, true]}'])
def test_damaged_settings_of_generation_are_one_line(tmp_path: Path, text: str) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=r"generation_config\.json: .*save the model again") as refused:
        ChatEncoder(folder)
    assert "\n" not in str(refused.value)
