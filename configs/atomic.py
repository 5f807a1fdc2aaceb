"""Files and folders that are complete or not there at all: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError


@contextmanager
def replaced(path: Path, durable: bool = False, writers: int = 1) -> Iterator[Path]:
    """A hidden sibling to write into; it becomes ``path`` on leaving, and is removed on an error.

    Args:
        path: The file that is created or replaced; its folder is there.
        durable: Whether the contents are flushed to disk before the renaming, so that they outlive a power cut.
        writers: Processes that may write the file at once: with more than one, each has a sibling of its own, which
            stays where one of them is killed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if writers > 1 else f".{path.name}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, durable: bool = False, writers: int = 1) -> Path:
    """Write a file in UTF-8 in one step, as :func:`replaced`; returns where it is."""
    with replaced(path, durable, writers) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Mapping[str, object], writers: int = 1) -> Path:
    """Write a JSON object in one step, indented, as :func:`replaced`; returns where it is."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", writers=writers)


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A temporary sibling to write into; it becomes ``folder`` on leaving, and is removed on an error.

    Raises:
        UserError: The disk filled up while writing.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _readable_as_others(temporary)
        flush_to_disk(temporary)
        os.replace(temporary, folder)
        flush_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if out_of_space(error):
            raise UserError(
                f"{folder}: the disk is full (or a quota is used up), so it was not written; free some "
                "space and continue with --resume. The last complete checkpoint is untouched"
            ) from error
        raise


def point_link(link: Path, target: Path) -> None:
    """Make ``link`` a relative link to ``target``, replacing an old link in one step."""
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    os.replace(temporary, link)
    flush_folder(link.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder that must not be seen half deleted: it is renamed first."""
    doomed = folder.parent / f".{folder.name}.retired"
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def out_of_space(error: BaseException) -> bool:
    """Whether an error means that the disk, a quota or a file-size limit is used up.

    PyTorch and safetensors wrap the operating system's error in their own, so their texts are read too.
    PyTorch's do not say why an archive could not be written; in practice the disk is full.
    """
    from safetensors import SafetensorError  # not imported with every command

    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, SafetensorError | RuntimeError):
        text = str(error)
        signs = ("No space left", "quota exceeded", "File too large", "StreamWriter", "inline_container")
        return any(sign in text for sign in signs)
    return False


def flush_to_disk(folder: Path) -> None:
    """fsync every file and folder below ``folder``."""
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """fsync a folder: that its entries are there, or gone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _readable_as_others(folder: Path) -> None:
    """Give every file the mode that the process gives to new ones: safetensors and peft write theirs as 0600."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~mask)
