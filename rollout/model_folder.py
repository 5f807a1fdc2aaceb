"""Hugging Face model folders and checkpoints, read without torch: which files hold the weights, whether they are whole
and what was saved.

Everything that loads weights asks here first, so that a damaged file is one message and not a model that answers
garbage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash

from configs.errors import UserError
from configs.json_types import Row
from configs.model_config import CONFIG_FILE, is_model_folder

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
STATE_FILE = "state.json"
# Everything of a model folder that an answer can depend on, besides the weights.
SETTINGS = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
)
ADAPTER = Path("adapter", "adapter_model.safetensors")

_BLOCK = 1 << 22
_MAX_HEADER = 100_000_000  # as the safetensors format says
_THREADS = 4  # xxhash lets go of the interpreter, and a disk answers several readers faster than one
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class Damaged(UserError):
    """A file of a model folder is cut, unreadable or not what was saved.

    Attributes:
        file: Which one.
        problem: What is wrong with it.
    """

    def __init__(self, file: Path, problem: str, cure: str) -> None:
        super().__init__(f"{file}: {problem}; {cure}")
        self.file = file
        self.problem = problem

    def __reduce__(self) -> Row:  # it travels between Ray's processes
        return UserError, (str(self),)


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a safetensors file: ``dtype`` as torch spells it, bytes from ``begin`` to ``end`` of ``file``."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def settings_files(folder: Path) -> list[Path]:
    """The files of a model folder that ``SETTINGS`` names, sorted."""
    return sorted({path for pattern in SETTINGS for path in Path(folder).glob(pattern) if path.is_file()})


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights, sorted: those its index names, or ``model.safetensors``.

    Whatever else lies there (``consolidated.safetensors``, an adapter) is another form of the model, not a part of it.

    Raises:
        UserError: There are none, or the index is damaged or names files that are not there.
    """
    folder = Path(folder)
    if (folder / SINGLE).is_file():  # transformers looks for it first
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise UserError(
            f"{folder}: has no *.safetensors weights (neither {SINGLE} nor {INDEX}); save the model with "
            "save_pretrained first"
        )
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(index, f"is no index of weight files ({type(error).__name__})", "fetch the model again") from None
    absent = [name for name in names if not (folder / name).is_file()]
    if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise Damaged(index, f"names {', '.join(outside[:3])}, outside the folder", "fetch the model again")
    if absent or not names:
        what = f"names {', '.join(absent[:3])}, not there" if absent else "names no file"
        raise Damaged(index, what, "fetch the model again")
    return [folder / name for name in names]


def weight_bytes(folder: Path) -> int | None:
    """Bytes of a model folder's weights; None where they are not there, or damaged."""
    try:
        return sum(file.stat().st_size for file in weight_files(folder))
    except (UserError, OSError):
        return None


def check_engine_files(folder: Path) -> None:
    """Refuse a folder of which vLLM would load other files than everybody else.

    vLLM takes the index's files where there is an index, and without one all ``*.safetensors`` that lie there; its own
    switches leave out neither for a local folder.

    Raises:
        UserError: Names the files, or as :func:`weight_files`.
    """
    ours = {file.name for file in weight_files(folder)}
    if ours != {SINGLE}:
        return
    if (Path(folder) / INDEX).is_file():
        raise UserError(
            f"{folder}: has both {SINGLE} and {INDEX}, two copies of the weights, of which vLLM takes the latter and "
            "Transformers the former; move one of them out of the folder"
        )
    if others := sorted({path.name for path in Path(folder).glob("*.safetensors")} - ours):
        raise UserError(
            f"{folder}: beside {SINGLE} lies {', '.join(others[:3])}, which vLLM would load as well; move it out of "
            "the folder"
        )


def check_model_folder(folder: Path) -> None:
    """Refuse what is no loadable model folder: configuration, index, and each weight file's header and length.

    Raises:
        UserError: Names the file.
    """
    config = Path(folder) / CONFIG_FILE
    if not is_model_folder(Path(folder)):
        raise UserError(f"{folder}: has no {CONFIG_FILE}; name a Hugging Face model folder")
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(config, f"not valid JSON ({error})", "fetch the model again") from None
    if not isinstance(found, dict):
        raise Damaged(config, "holds no mapping", "fetch the model again")
    for file in weight_files(folder):
        read_header(file)


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file by name.

    Raises:
        UserError: The file is cut or no safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError("no header")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        found = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            found[name] = Entry(file, _DTYPES[entry["dtype"]], tuple(entry["shape"]), start + begin, start + end)
    except OSError as error:
        raise Damaged(file, f"cannot be read ({error.strerror})", "check its permissions, or fetch it again") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(file, "its header is damaged, so it is no safetensors file", "fetch it again") from None
    wanted = max((entry.end for entry in found.values()), default=start)
    if size < wanted:
        raise Damaged(file, f"is cut: {size} bytes, its header speaks of {wanted}", "fetch it again")
    return found


def tensors_of(folder: Path) -> dict[str, Entry]:
    """All tensors of a model folder by name.

    Raises:
        UserError: As :func:`check_model_folder`.
    """
    return {name: entry for file in weight_files(folder) for name, entry in read_header(file).items()}


def weights_checksum(entries: dict[str, Entry]) -> str:
    """What ``learners.weights.checksum`` gives for these tensors, computed from the files' bytes."""
    digest = xxhash.xxh64()
    for name in sorted(entries):
        entry = entries[name]
        digest.update(json.dumps([name, entry.dtype, list(entry.shape)]).encode())
        for block in _blocks(entry.file, entry.begin, entry.end):
            digest.update(block)
    return digest.hexdigest()


def file_digests(folder: Path, files: list[Path] | None = None) -> dict[str, str]:
    """xxh3 checksum of every file below a folder (or of these), by path within it, 16 hexadecimal digits each."""
    folder = Path(folder)
    if files is None:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE_FILE)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(
            zip((path.relative_to(folder).as_posix() for path in files), pool.map(_file_digest, files), strict=True)
        )


def verify_checkpoint(folder: Path, weights_only: bool = False) -> None:
    """Compare a checkpoint's files with what its ``state.json`` says of them; a folder without one is only looked over.

    Args:
        folder: A checkpoint, or any model folder.
        weights_only: Leave out the optimiser's state, which only the learner reads, and whatever a person may have
            changed on purpose (chat template, generation defaults).

    Raises:
        UserError: Names the file.
    """
    folder = Path(folder)
    state_file = folder / STATE_FILE
    if not state_file.is_file():
        check_model_folder(folder)
        return
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        files, saved = dict(state.get("files") or {}), str(state["checksum"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(state_file, f"cannot be read ({type(error).__name__})", _REMOVE) from None
    try:
        check_model_folder(folder)
    except Damaged as damage:
        raise Damaged(damage.file, damage.problem, _REMOVE) from None
    if not files:  # written before there were checksums of files
        _verify_weights(folder, saved)
        return
    listed = {name: digest for name, digest in files.items() if not weights_only or name.endswith(".safetensors")}
    for name in listed:
        if not (folder / name).is_file():
            raise Damaged(folder / name, "is not there", _REMOVE)
    try:
        found = file_digests(folder, [folder / name for name in listed])
    except OSError as error:
        raise Damaged(folder, f"cannot be read ({error.strerror})", "check its permissions") from None
    for name, digest in listed.items():
        if found[name] != digest:
            raise Damaged(folder / name, _ANOTHER, _REMOVE)


_REMOVE = "this checkpoint is damaged: restore it from a copy"
_ANOTHER = f"does not hold what was saved (another checksum than {STATE_FILE} has)"


def _verify_weights(folder: Path, saved: str) -> None:
    entries = tensors_of(folder)
    if weights_checksum(entries) == saved:
        return
    # Runs that publish an adapter alone once kept its checksum in that place.
    adapter = folder / ADAPTER
    if adapter.is_file() and weights_checksum(read_header(adapter)) == saved:
        return
    raise Damaged(next(iter(entries.values())).file if entries else folder, _ANOTHER, _REMOVE)


def _file_digest(path: Path) -> str:
    digest = xxhash.xxh3_64()
    for block in _blocks(path, 0, path.stat().st_size):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path, begin: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(begin)
        left = end - begin
        while left > 0 and (block := stream.read(min(_BLOCK, left))):
            left -= len(block)
            yield block
