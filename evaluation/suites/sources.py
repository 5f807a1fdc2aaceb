"""Who answers: a model folder, a run's policy, or a file of answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from configs.model_config import DTYPES, is_model_folder, named_dtype, read_model_config
from configs.reading import is_file, is_folder, shown
from configs.yaml12 import read_yaml
from rollout.hub import is_hub_name, snapshot
from rollout.policy import run_policy


@dataclass(frozen=True, slots=True)
class Source:
    """Where a system's answers come from: ``folder`` or ``file``, never both.

    Attributes:
        name: For tables.
        folder: Hugging Face folder of the model that answers.
        file: JSON lines of its answers.
        dtype: Of the model, as its run or its config says.
        add_bos: As its run says.
        template_date: As its run says, ISO 8601.
        chat_template: As its run says, in place of that of the folder: a run's start has its own.
        template_values: As its run says, of the template's variables.
    """

    name: str
    folder: Path | None = None
    file: Path | None = None
    dtype: str = "float32"
    add_bos: bool = False
    template_date: str | None = None
    chat_template: str | None = None
    template_values: dict[str, object] = field(default_factory=dict)


def resolve(text: str, option: str) -> Source:
    """Find out what a path is.

    Args:
        text: A model folder or a model's name on the Hub (``hf:owner/name``), a run folder (its newest policy, or the
            start where no round was trained), or a file of answers.
        option: For messages.

    Raises:
        UserError: It is none of these, or a run whose checkpoints are gone.
    """
    path = snapshot(text, "model", option) if is_hub_name(text) else Path(text)
    if is_file(path):
        return Source(path.stem, file=path)
    if not is_folder(path):
        raise UserError(
            f"{option} {shown(path)}: no such folder or file; name a model folder, a run folder or a file of answers"
        )
    if (path / "config.yaml").is_file():
        return _run(path)
    if not is_model_folder(path):
        raise UserError(f"{option} {path}: has neither config.json (a model) nor config.yaml (a run)")
    return Source(path.resolve().name, folder=path, dtype=named_dtype(read_model_config(path)))


def _run(path: Path) -> Source:
    file = path / "config.yaml"
    data = read_yaml(file, "config of a run")
    try:
        model, name = data["model"], data["run"]["name"]
        start, dtype, add_bos = Path(model["policy"]), str(model["dtype"]), bool(model["add_bos"])
        date = str(model["template_date"]) if model.get("template_date") else None
        template, values = model.get("chat_template"), dict(model.get("chat_template_kwargs") or {})
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: is no config of a run; name a model folder, or restore the file") from None
    folder = run_policy(path, start)
    if dtype not in DTYPES:  # "auto": the run's model was elsewhere
        dtype = named_dtype(read_model_config(folder))
    text = template if isinstance(template, str) else None
    return Source(str(name), folder, None, dtype, add_bos, date, text, values)
