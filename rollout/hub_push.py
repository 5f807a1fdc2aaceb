"""A checkpoint of a run to a model repository on the Hugging Face Hub, in one commit with its card."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from configs.errors import UserError
from configs.model_config import is_model_folder
from configs.reading import is_file, shown
from rollout.model_folder import verify_checkpoint
from rollout.run_layout import POLICY_LINK

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_ROUND = re.compile(r"round-(\d+)")
_CARD = "README.md"
# Of a checkpoint, what only its own run reads.
_NOT_PUSHED = ("trainer", "state.json", "metrics.json")


def pushed_checkpoint(run: Path) -> tuple[Path, int]:
    """The newest checkpoint of a run, its bytes as they were saved, and its round.

    Raises:
        UserError: It is no run folder, it has trained no round, or its checkpoint is gone or damaged.
    """
    if not is_file(run / "config.yaml"):
        raise UserError(f"{run}: no config.yaml in it; name a run folder such as runs/demo")
    link = run / POLICY_LINK
    match = _ROUND.fullmatch(link.resolve().name)
    if match is None or not is_model_folder(link):
        raise UserError(f"{run}: has no checkpoint to push; train a round first, or restore {link}")
    folder = link.resolve()
    verify_checkpoint(folder)
    return folder, int(match[1])


def pushed_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that others load: all but what a resumed run alone reads."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if path.relative_to(folder).parts[0] not in _NOT_PUSHED and path.name != _CARD]


def push_checkpoint(
    folder: Path, repo: str, card: str, *, create: bool, dry_run: bool, say: Callable[[str], None]
) -> str | None:
    """Upload a checkpoint.

    Args:
        folder: Of the checkpoint.
        repo: ``owner/name`` of a model repository.
        card: Becomes its README.md.
        create: Whether a repository that is missing is made, as a private one.
        dry_run: Only say what would be uploaded, without asking the Hub anything.
        say: Told the files.

    Returns:
        Address of the commit; None for a dry run.

    Raises:
        UserError: There is no token, or the repository is missing, forbidden or cannot be reached.
    """
    if not _REPO.fullmatch(repo):
        raise UserError(f"{shown(repo)}: is no repository's name; write owner/name")
    files = pushed_files(folder)
    for path in files:
        say(f"  {path.relative_to(folder)}  {path.stat().st_size / 1e6:.1f} MB")
    say(f"  {_CARD}  the model card")
    if dry_run:
        return None
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError(f"{repo}: there is no token; set HF_TOKEN to one that may write, or run `hf auth login`")
    api = HfApi()
    operations = [CommitOperationAdd(str(path.relative_to(folder)), path) for path in files]
    operations.append(CommitOperationAdd(_CARD, card.encode()))

    def upload() -> str:
        if create:
            api.create_repo(repo, private=True, exist_ok=True)
        return str(api.create_commit(repo, operations, commit_message=f"{folder.name} by isogloss").commit_url)

    return _explained(repo, upload)


def _explained(repo: str, upload: Callable[[], str]) -> str:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    # Those of whichever HTTP library this version of huggingface_hub has.
    unreachable = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
    try:
        return upload()
    except RepositoryNotFoundError:
        why = "is no model repository that the token can see; correct the name, create it, or add --create"
    except HFValidationError as error:
        why = f"cannot be a name ({shown(error)}); correct it"
    except OfflineModeIsEnabled:
        why = "cannot be reached: HF_HUB_OFFLINE is set; unset it"
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            why = "cannot be written: the Hub does not know the token; set HF_TOKEN to another"
        elif status == 403:
            why = "may not be written with this token; set HF_TOKEN to one with write access to it"
        else:
            why = f"was not written: the Hub answered {status} ({shown(error)}); try again"
    except unreachable as error:
        why = f"cannot be reached ({shown(error)}); connect and try again"
    except ValueError as error:  # what the Hub says of the card, or an answer that is none of the Hub's
        why = f"gave an unexpected answer ({shown(error)}); look at the repository before trying again"
    raise UserError(f"{repo}: {why}")
