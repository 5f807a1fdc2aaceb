"""``isogloss train-reward``: a reward model from preference pairs, in this process, measured by language at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.observe.screen import Screen
from actors.runtime.signals import StopFlag, stop_on_signals
from configs.atomic import write_json
from configs.errors import Stopped, UserError
from configs.json_types import JsonObject
from configs.load import load_section
from configs.reading import is_file, is_folder, read_json
from configs.reward_training import RewardTrainingConfig
from evaluation.audit import ALL, Judgement, audit, write_audit
from rollout.formats.left_out import LeftOut
from rollout.hub import is_hub_name, snapshot
from rollout.preferences import Preference, read_all

RECORD, SCRATCH, MEASURED = "training.json", ".training", "heldout"
_SCORED_TOKENS = 16_384  # of one forward pass while measuring
_BUILT = ("train.parquet", "journal")  # what isogloss build-data leaves beside its card


@dataclass(frozen=True)
class RewardRequest:
    """What ``isogloss train-reward`` was asked for.

    Attributes:
        model: Folder (or ``hf:`` name) of a language model, or of a reward model to be trained further.
        data: Preference files as ``offline.path``, or folders of ``isogloss build-data``.
        out: Folder of the reward model.
        overrides: ``training.field=value``.
        dominant: Language of rows that do not say theirs.
        quiet: Show the table alone.
    """

    model: str
    data: Sequence[str]
    out: Path
    overrides: Sequence[str] = ()
    dominant: str = "en"
    quiet: bool = False


def run_train_reward(request: RewardRequest) -> str:
    """Train a reward model, or continue one that was stopped; returns the table of held-out accuracy by language.

    Raises:
        UserError: Data or model are unusable, or ``out`` holds something else.
        Stopped: A signal asked for it; the same command continues.
    """
    training = load_section(None, "training", RewardTrainingConfig, request.overrides)
    screen = Screen(request.quiet)
    rows, left_out, forms = read_pairs(request.data, training.languages, request.dominant)
    import torch

    from learners.chat_template import ChatTemplate
    from learners.reward_model.pairs import counts, data_digest, fitting, split_by_prompt
    from learners.reward_model.text import RewardText
    from learners.reward_model.training import load_base, train

    torch.set_num_threads(training.threads)
    folder = snapshot(request.model, "model", "MODEL") if is_hub_name(request.model) else Path(request.model)
    model, tokenizer = load_base(folder, training)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = min(training.max_length, positions or training.max_length)
    vocabulary = model.get_input_embeddings().num_embeddings
    text = RewardText(ChatTemplate(folder, tokenizer), tokenizer)
    kept, encoded = fitting(rows, text, longest, vocabulary, left_out)
    if not kept:
        raise UserError("no pair is left to train on:\n  " + "\n  ".join(left_out.lines()))
    split = split_by_prompt(kept, training)
    tokens = dict(zip(kept, encoded, strict=True))
    trained = [tokens[row] for row in split.train]
    identity = {"model": str(folder), "pairs": data_digest(trained), "training": training.model_dump(mode="json")}
    if _is_finished(request.out, identity):
        screen.say(f"{request.out}: is this reward model already; nothing to do")
        return (request.out / MEASURED / "audit.md").read_text(encoding="utf-8") if split.heldout else ""
    by_language = counts(split.train)
    listed = ", ".join(f"{code} {count}" for code, count in by_language.items())
    screen.say(
        f"{len(split.train)} pairs of form {', '.join(forms)} to train on ({listed}), {len(split.heldout)} held out"
    )
    for line in left_out.lines():
        screen.say(f"left out: {line}")
    request.out.mkdir(parents=True, exist_ok=True)
    write_json(request.out / RECORD, {"identity": identity, "finished": False})
    flag = StopFlag()
    with stop_on_signals(flag), screen.stage("training the reward model") as progress:

        def step(done: int, of: int) -> None:
            if progress.rates.total != of:
                progress.total(of)
                progress.resumed(done - 1)
            progress.advance(1)

        losses = train(
            model,
            tokenizer,
            trained,
            training,
            out=request.out,
            scratch=request.out / SCRATCH,
            step=step,
            should_stop=flag,
        )
    if losses is None:
        files = [part for place in request.data for part in ("--data", place)]
        given = ["isogloss", "train-reward", request.model, *files, "--out", str(request.out), *request.overrides]
        again = shlex.join(given)
        raise Stopped(f"stopped by {flag.asked_by}; nothing is lost. Continue: {again}")
    page, figures = _measure(request.out, split.heldout, left_out, screen)
    record: JsonObject = {"identity": identity, "finished": True, "pairs": by_language, "losses": losses}
    write_json(request.out / RECORD, record | {"heldout": figures, "left_out": left_out.lines()})
    screen.result(f"reward model: {request.out}   use it with reward.kind=reward_model reward.model={request.out}")
    return page


def read_pairs(
    data: Sequence[str], codes: Sequence[str], dominant: str
) -> tuple[list[Preference], LeftOut, tuple[str, ...]]:
    """The rows of all files, those in other languages left out, and the forms that were found.

    Raises:
        UserError: A file is missing or bad, or no row is left.
    """
    reading = read_all(map(_place, data), (), dominant)
    kept = []
    for row in reading.rows:
        if codes and row.language not in codes:
            reading.left_out.add("in a language that training.languages does not name", row.where)
        else:
            kept.append(row)
    return kept, reading.left_out, reading.forms


def _place(name: str) -> Path:
    path = Path(snapshot(name, "dataset", "--data") if is_hub_name(name) else name)
    return path / _BUILT[0] if is_file(path / _BUILT[0]) and is_folder(path / _BUILT[1]) else path


def _is_finished(out: Path, identity: JsonObject) -> bool:
    """Whether ``out`` holds this very model; what was begun is continued.

    Raises:
        UserError: It holds another one, or something else.
    """
    path = out / RECORD
    if not is_file(path):
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"--out {out}: holds files but no reward model of this command; name another folder")
        return False
    record = read_json(path, "the record of a training", "remove the folder, or name another")
    if not isinstance(record, dict) or record.get("identity") != identity:
        raise UserError(
            f"--out {out}: was trained, or begun, from another model, other pairs or another `training`; name another "
            "folder, or remove it"
        )
    return bool(record.get("finished"))


def _measure(
    out: Path, rows: Sequence[Preference], left_out: LeftOut, screen: Screen
) -> tuple[str, dict[str, JsonObject]]:
    """Accuracy of the written model, loaded as a run loads it, on the pairs that were held out."""
    if not rows:
        return "", {}
    import torch

    from actors.reward.reward_model import RewardModel

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = RewardModel(out, "float32", _SCORED_TOKENS, device, field="--out")
    found: list[Judgement] = []
    with screen.stage("measuring held-out pairs") as progress:
        progress.total(len(rows))
        scores, _ = model.score([(row.prompt, text) for row in rows for text in (row.chosen, row.rejected)])
        for place, row in enumerate(rows):
            chosen, rejected = scores[2 * place], scores[2 * place + 1]
            assert chosen is not None, "fits, as checked"
            assert rejected is not None, "fits, as checked"
            found.append(Judgement.of(row, chosen, rejected))
        progress.advance(len(rows))
    page, _ = write_audit(out / MEASURED, f"Reward model {out.name}, held-out pairs", found, left_out.lines())
    return page, {code: cells[ALL] for code, cells in audit(found).items()}
