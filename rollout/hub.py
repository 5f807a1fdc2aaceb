"""Models and data by their name on the Hugging Face Hub: ``hf:owner/name[@revision][:path/inside]``.

A name is resolved once, to a snapshot whose folder's name is the commit. The config of a run holds that folder, so the
commit is part of the run's identity and stands in its journal, and a resumed run takes the same one, offline too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.errors import UserError
from configs.load import load_run_config
from configs.reading import is_file, shown
from configs.schema import Config

PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::(.+))?", re.ASCII)
# What no part of a run reads, of repositories that hold a model in several forms.
_NOT_READ = ("*.h5", "*.msgpack", "*.onnx", "onnx/*", "original/*", "*.gguf", "*.tflite")

Kind = Literal["model", "dataset"]
# Fields that take a name, and what they name.
_FIELDS: Mapping[str, Kind] = {
    "model.policy": "model",
    "model.reference": "model",
    "reward.model": "model",
    "prompts.train": "dataset",
    "prompts.heldout": "dataset",
    "offline.path": "dataset",
    "anchor.path": "dataset",
}


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, perhaps at a revision, perhaps a path in it (which may hold ``{lang}``)."""

    repo: str
    revision: str | None
    inside: str | None


def is_hub_name(text: str | Path) -> bool:
    """Whether a value is meant as a name on the Hub."""
    return str(text).startswith(PREFIX)


def parse(text: str, field: str) -> HubName:
    """The parts of a name.

    Raises:
        UserError: It has not the form of one.
    """
    match = _NAME.fullmatch(text)
    if match is None or ".." in (match[3] or "").split("/"):
        raise UserError(
            f"{field}: {shown(text)} is no name on the Hub; write hf:owner/name, hf:owner/name@revision, or "
            "hf:owner/name:path/in/the/repository"
        )
    return HubName(match[1], match[2], match[3])


def snapshot(text: str, kind: Kind, field: str, kept: str | None = None) -> Path:
    """The local folder (or what a path in it leads to) of a name, downloaded where it is not there yet.

    Args:
        text: ``hf:...``.
        kind: What the repository is.
        field: Config field, for messages.
        kept: What the run that is resumed was started with, in place of ``text``.

    Raises:
        UserError: The repository is gated, private, missing, or cannot be reached and is not there yet.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = parse(text, field)
    revision = name.revision or _commit(kept, name.repo, kind)
    allowed = None if name.inside is None else list(_patterns(name.inside))
    try:
        folder = Path(
            snapshot_download(
                name.repo, repo_type=kind, revision=revision, allow_patterns=allowed, ignore_patterns=list(_NOT_READ)
            )
        )
    except GatedRepoError:
        why = "is gated; accept its terms at its page on the Hub and set HF_TOKEN to a token of yours, or name a folder"
    except RevisionNotFoundError:
        why = f"has no revision {name.revision}; correct what stands after @"
    except RepositoryNotFoundError:
        why = f"is no {kind} there, or a private one; correct the name, or set HF_TOKEN to a token that may read it"
    except HFValidationError as error:
        why = f"cannot be a name ({shown(error)}); correct it"
    except LocalEntryNotFoundError:
        why = (
            "cannot be reached and is not in the local cache; connect, set HF_HOME to a cache with it, or name a folder"
        )
    except (HfHubHTTPError, OSError) as error:
        why = f"cannot be fetched ({shown(error)}); try again, or name a folder"
    else:
        return folder if name.inside is None else folder / name.inside
    raise UserError(f"{field}: {name.repo} {why}")


def _patterns(inside: str) -> tuple[str, str]:
    pattern = inside.rstrip("/").replace("{lang}", "*")
    return pattern, f"{pattern}/*"


def _commit(kept: str | None, repo: str, kind: Kind) -> str | None:
    """The commit of a snapshot's path, if it is one of this repository."""
    folder = re.escape(f"{kind}s--{repo.replace('/', '--')}")
    match = re.search(rf"/{folder}/snapshots/([0-9a-f]{{40}})(?:/|$)", kept or "")
    return match[1] if match else None


def resolved(config: Config) -> Config:
    """The config with every name on the Hub replaced by its snapshot.

    Raises:
        UserError: As :func:`snapshot`; names the field.
    """
    flat = {field: value for field in _FIELDS if (value := _value(config, field)) is not None and is_hub_name(value)}
    if not flat:
        return config
    run = config.run.dir / config.run.name
    earlier = load_run_config(run) if is_file(run / "config.yaml") else None
    for field, value in flat.items():
        kept = None if earlier is None else _value(earlier, field)
        place = snapshot(str(value), _FIELDS[field], field, None if kept is None else str(kept))
        section, _, name = field.partition(".")
        own = getattr(config, section)
        found = place if isinstance(value, Path) else str(place)
        config = config.model_copy(update={section: own.model_copy(update={name: found})})
    return config


def _value(config: Config, field: str) -> str | Path | None:
    section, _, name = field.partition(".")
    value = getattr(getattr(config, section), name, None)
    return value if isinstance(value, str | Path) else None
