"""The working directory of a job: what would be uploaded, how large it is, and whether all inputs are in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.load import config_files
from configs.named_paths import named_paths
from configs.presets import is_packaged
from configs.schema import Config
from rollout.formats.places import LANG, places_of
from rollout.hub import is_hub_name

logger = logging.getLogger(__name__)

# Besides what .gitignore and .rayignore name: never of use to a job, wherever it is submitted from. Without a slash at
# the end, so that Ray does not even walk through them.
EXCLUDES = ("/.git", "/.venv", "/venv", "/runs", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
LIMIT_MIB = 100  # Ray's own limit is 500; the head keeps every upload in memory
_SHOWN = 5


@dataclass(frozen=True)
class Upload:
    """Files of a job's working directory.

    Attributes:
        root: The directory, absolute.
        files: Bytes by path below ``root``.
    """

    root: Path
    files: Mapping[str, int]

    @property
    def mib(self) -> float:
        """Size of all files, before compression."""
        return sum(self.files.values()) / 2**20

    def __contains__(self, path: str) -> bool:
        folder = "" if path in ("", ".") else path.rstrip("/") + "/"
        return path in self.files or any(name.startswith(folder) for name in self.files)


def list_upload(root: Path) -> Upload:
    """What Ray would upload of ``root``, by Ray's own rules: ``EXCLUDES``, ``.gitignore`` and ``.rayignore``.

    The rules are Ray's private functions: the client has no public way to ask, and a copy would differ some day.
    """
    from ray._private.runtime_env import packaging

    root = root.resolve()
    files: dict[str, int] = {}

    def take(path: Path) -> None:
        if path.is_file():
            files[path.relative_to(root).as_posix()] = path.stat().st_size

    excluded = [packaging._get_excludes(root, list(EXCLUDES))]
    packaging._dir_travel(root, excluded, take, include_gitignore=True, logger=logger)
    return Upload(root, files)


def check_upload(upload: Upload, limit_mib: float = LIMIT_MIB) -> None:
    """Refuse an upload that is too large, before anything is sent.

    Raises:
        UserError: Names the largest files and folders.
    """
    if upload.mib <= limit_mib:
        return
    largest = sorted(upload.files.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    listed = "".join(f"\n  {size / 2**20:8.1f} MiB  {name}" for name, size in largest)
    raise UserError(
        f"{upload.root}: the working directory of a job would be {upload.mib:.0f} MiB in {len(upload.files)} files, "
        f"more than {limit_mib:g}; move what the job does not need away or name it in .rayignore, and give models and "
        f"large prompt files absolute paths on storage that all nodes share. Largest:{listed}"
    )


def check_inputs_travel(config: Config, config_file: Path, upload: Upload) -> str:
    """Refuse relative paths that the job would not find; returns the config file's path below the upload's root.

    Raises:
        UserError: Names the field and the file or folder.
    """
    files = config_files(config_file)
    for file in files:
        if not file.resolve().is_relative_to(upload.root) and not is_packaged(file):
            raise UserError(f"{file}: is not below {upload.root}, which is what the job gets; copy it there")
    for field, path in _named(config, config_file):
        if is_hub_name(path):
            continue  # resolved where the job runs
        if path.is_absolute() and field != "config":
            continue  # on the cluster's storage: the job's own checks look there
        place = path.resolve()
        if field == "config" and is_packaged(path) and not place.is_relative_to(upload.root):
            continue
        if place.is_relative_to(upload.root) and place.relative_to(upload.root).as_posix() in upload:
            continue
        left_out = "is left out of the upload (by .gitignore, .rayignore, or as runs/)"
        why = left_out if place.exists() else "does not exist"
        raise UserError(
            f"{field}: {path} {why}, so the job would not find it (relative paths start at {upload.root}, which "
            "it gets); name an absolute path on storage that all nodes share"
        )
    named = files[0].resolve()
    # A preset by its name is one there too: isogloss itself is not what is uploaded.
    return named.relative_to(upload.root).as_posix() if named.is_relative_to(upload.root) else config_file.as_posix()


def _named(config: Config, config_file: Path) -> Iterator[tuple[str, Path]]:
    """Every file or folder that the job reads, with the field that names it."""
    for file in config_files(config_file):
        yield "config", file
    if config.serve.api_keys_file is not None:
        yield "serve.api_keys_file", config.serve.api_keys_file
    for one in named_paths(config):
        if LANG in one.text and not one.codes:  # offline: whatever languages there are
            yield one.field, Path(one.text.partition(LANG)[0] + "x").parent
        for code, place in places_of(one):
            yield (one.field if code is None else f"{one.field} ({code})"), place
