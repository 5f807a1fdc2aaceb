"""What can be wrong with a run is said in one message, within seconds, before Ray starts, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from actors.plan.preflight import check_inputs
from actors.train import run_folder
from actors.train.dry_run import check_readable
from actors.train.run_folder import open_run_folder
from configs.errors import UserError
from configs.load import load_config, load_run_config
from configs.schema import Config
from rollout.store_open import claim
from tests.kits.run import arguments, small_config

POLICY = Path("worlds/default/policy")


def refused(config: Config) -> str:
    with pytest.raises(UserError) as error:
        check_inputs(config)
    return str(error.value)


def test_good_inputs_pass(tmp_path: Path) -> None:
    inputs = check_inputs(small_config(tmp_path))
    assert set(inputs.names) == {"en", "es", "sw"}
    assert inputs.heldout is not None
    assert len(inputs.heldout.ids) == 8


def test_missing_model_folder(tmp_path: Path) -> None:
    message = refused(small_config(tmp_path, "model.policy=nowhere/at-all"))
    assert "nowhere/at-all: no such model folder; set model.policy" in message


def test_model_without_chat_template(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(POLICY, folder)
    (folder / "chat_template.jinja").unlink()
    message = refused(small_config(tmp_path, f"model.policy={folder}"))
    assert f"{folder}: the tokenizer has no chat template" in message


def test_model_without_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(POLICY, folder)
    (folder / "model.safetensors").unlink()
    assert "model.policy" in refused(small_config(tmp_path, f"model.policy={folder}"))


def test_missing_prompt_file(tmp_path: Path) -> None:
    message = refused(small_config(tmp_path, f"prompts.train={tmp_path}/{{lang}}.jsonl"))
    assert f"{tmp_path}/en.jsonl" in message


def test_prompt_longer_than_the_context(tmp_path: Path) -> None:
    for code in ("en", "es", "sw"):
        words = " word" * (300 if code == "es" else 3)
        (tmp_path / f"{code}.jsonl").write_text(f'{{"id": 1, "prompt": "Say{words}", "answer": "x"}}\n')
    overrides = [f"prompts.train={tmp_path}/{{lang}}.jsonl", "prompts.heldout=null"]
    message = refused(small_config(tmp_path, *overrides))
    assert f"{tmp_path}/es.jsonl:1: the prompt has" in message
    assert "set model.max_length to at least" in message


def test_long_prompts_can_be_left_out_in_all_languages(tmp_path: Path) -> None:
    for code in ("en", "es", "sw"):
        rows = [f'{{"id": {i}, "prompt": "Say{" word" * (300 if (i, code) == (2, "es") else 3)}"}}' for i in range(4)]
        (tmp_path / f"{code}.jsonl").write_text("\n".join(rows) + "\n")
    overrides = [f"prompts.train={tmp_path}/{{lang}}.jsonl", "prompts.heldout=null", "prompts.skip_longer_than=100"]
    inputs = check_inputs(small_config(tmp_path, *overrides))
    assert inputs.prompts.ids == ("0", "1", "3")
    assert inputs.left_out == 1
    assert "leaves none of the 4 prompts" in refused(
        small_config(tmp_path, *overrides[:2], "prompts.skip_longer_than=1")
    )


def test_reference_with_another_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(POLICY, folder)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"Paris"', '"Lutetia"').replace("<text>", "<tekst>"))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["onemore"])
    tokenizer.save_pretrained(folder)
    message = refused(small_config(tmp_path, f"model.reference={folder}"))
    assert "model.reference" in message
    assert "another tokenizer" in message


def test_more_anchors_than_there_are(tmp_path: Path) -> None:
    assert "anchor" in refused(small_config(tmp_path, "anchor.pairs_per_round=100000"))


def test_no_room_to_translate(tmp_path: Path) -> None:
    message = refused(small_config(tmp_path, "candidates.translation_max_new_tokens=230", config="lidr"))
    assert "model.max_length: 256 is too short to translate" in message


def test_full_disk_is_found_before_the_start(tmp_path: Path) -> None:
    message = refused(small_config(tmp_path, "run.min_free_disk_gb=1000000"))
    assert "less than run.min_free_disk_gb" in message


def test_run_folder_of_another_config(tmp_path: Path) -> None:
    open_run_folder(small_config(tmp_path), resume=False).close()
    with pytest.raises(UserError, match=r"belongs to another config \(learner.beta: 0.1 -> 0.3\)"):
        open_run_folder(small_config(tmp_path, "learner.beta=0.3"), resume=True)


def test_run_folder_is_not_taken_over_by_accident(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    open_run_folder(config, resume=False).close()
    with pytest.raises(UserError, match="add --resume to continue"):
        open_run_folder(config, resume=False)
    open_run_folder(config, resume=True).close()


def test_run_folder_in_use(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    first = open_run_folder(config, resume=False)
    with pytest.raises(
        UserError, match=rf"another process \(process id {os.getpid()}\) is running in it; wait for it or"
    ):
        open_run_folder(config, resume=True)
    first.close()


def test_the_journal_of_a_killed_run_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(tmp_path)
    first = open_run_folder(config, resume=False)
    first.close()
    left = claim(first.store)  # as the journal's process of a killed driver, which is not done yet
    said: list[str] = []

    def ended(line: str) -> None:
        said.append(line)
        left.release()

    open_run_folder(config, resume=True, say=ended).close()
    who = f"the journal's process (process id {os.getpid()}) of a"
    assert said == [f"{first.path}: {who} killed run is ending; it gets 60 s"]
    held = claim(first.store)
    monkeypatch.setattr(run_folder, "_JOURNAL_S", 0)
    with pytest.raises(UserError) as refused:
        open_run_folder(config, resume=True)
    assert f"{who} run that was killed has not ended" in str(refused.value)
    with pytest.raises(UserError) as again:
        open_run_folder(config, resume=True)
    assert str(again.value) == str(refused.value), "the run's own lock was kept"
    held.release()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume there"):
        open_run_folder(small_config(tmp_path), resume=True)


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    (tmp_path / config.run.name).mkdir()
    (tmp_path / config.run.name / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no run"):
        open_run_folder(config, resume=False)


def test_more_rounds_are_the_same_run(tmp_path: Path) -> None:
    open_run_folder(small_config(tmp_path), resume=False).close()
    more = small_config(tmp_path, "schedule.rounds=5", "cluster.num_cpus=4")
    folder = open_run_folder(more, resume=True)
    folder.close()
    kept = load_run_config(folder.path)
    assert kept.run.inputs
    assert kept == more.model_copy(update={"run": more.run.model_copy(update={"inputs": kept.run.inputs})})


def test_command_ends_with_a_message_and_no_traceback(tmp_path: Path) -> None:
    command = arguments(tmp_path, "x", "model.policy=nowhere")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("isogloss: ")
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_dry_run_prints_config_and_plan_and_starts_nothing(tmp_path: Path, encoding: str) -> None:
    command = [*arguments(tmp_path, "x"), "--dry-run"]
    terminal = {**os.environ, "PYTHONIOENCODING": encoding}  # which may lack letters of the prompts
    done = subprocess.run(
        command, env=terminal, capture_output=True, text=True, timeout=60, check=False, encoding=encoding
    )
    assert done.returncode == 0, done.stderr
    assert "prompts_per_round: 24" in done.stdout
    assert "learner" in done.stdout
    assert "Inputs: " in done.stdout
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("prompts.train={here}/{{lang}}.jsonl", "{here}/es.jsonl:1: not valid JSON"),
        ("prompts.heldout=nowhere/{{lang}}.jsonl", "nowhere/en.jsonl: no such file"),
        ("anchor.path=nowhere.jsonl", "nowhere.jsonl: no such file (anchor pairs)"),
        ("candidates.untranslated_ids=nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("model.reference=nowhere", "model.reference: nowhere"),
    ],
)
def test_dry_run_reads_what_a_run_reads(tmp_path: Path, override: str, named: str) -> None:
    for code in ("en", "es", "sw"):
        (tmp_path / f"{code}.jsonl").write_text('{"id": 1, "prompt": "Hi"}\n' if code == "en" else "{\n")
    config = small_config(tmp_path, override.format(here=tmp_path), "anchor.pairs_per_round=1")
    with pytest.raises(UserError) as error:
        check_readable(config, elsewhere=False)
    assert named.format(here=tmp_path) in str(error.value)


def test_dry_run_reads_an_offline_run_s_pairs(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "Hi"}\n')
    config = load_config(Path("configs/offline.yaml"), [f"run.dir={tmp_path}", f"offline.path={tmp_path}/p.jsonl"])
    with pytest.raises(UserError, match=r"p\.jsonl:1: field 'chosen' is missing"):
        check_readable(config, elsewhere=False)


def test_dry_run_of_another_machine_s_run_reads_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    absent = ["model.policy=/shared/policy", "model.reference=/shared/reference", "anchor.path=/shared/a.jsonl"]
    check_readable(small_config(tmp_path, *absent), elsewhere=True)
    assert "so not read: model.policy, model.reference, anchor.path" in " ".join(capsys.readouterr().out.split())
    words = ["reward={kind: terms, terms: {known: {kind: words, files: {sw: /shared/sw.txt}}}}",
             "candidates.sources=[{kind: policy}, {kind: file, name: human, path: '/shared/{lang}.jsonl'}]",
             "rollout.temperature=0.5", "rollout.temperatures=[1.0, 0.9]"]  # fmt: skip
    check_readable(small_config(tmp_path, *absent, *words), elsewhere=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "reward.terms.known.files.sw, anchor.path, candidates.sources.1.path" in said
    assert "rollout.temperature: 0.5 is not used" in said
    for code in ("en", "es"):
        (tmp_path / f"{code}.jsonl").write_text('{"id": 1, "prompt": "Hi"}\n')
    config = small_config(tmp_path, *absent, f"prompts.train={tmp_path}/{{lang}}.jsonl")
    with pytest.raises(UserError, match=r"sw\.jsonl: no such file"):  # of the others' place, so it is missing
        check_readable(config, elsewhere=True)


@pytest.mark.ray
def test_too_few_cpus_is_an_immediate_error(tmp_path: Path) -> None:
    command = arguments(tmp_path, "x", "rollout.actors=9", "rollout.cpus_per_actor=1", "cluster.num_cpus=2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "CPUs are needed (rollout 9 x 1" in done.stderr
    assert "lower rollout.actors" in done.stderr
    assert "Traceback" not in done.stderr
