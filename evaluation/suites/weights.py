"""What a model folder is, in one checksum: weights, config, tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import xxhash

from configs.model_config import read_model_config
from evaluation.suites.cache import EvalCache
from rollout.model_folder import settings_files, weight_files

_BLOCK = 1 << 24


def model_checksum(folder: Path, cache: EvalCache) -> str:
    """Checksum of everything in a Hugging Face folder that an answer can depend on, 32 hexadecimal digits.

    A weight file's own checksum is kept by path, time and size, so that gigabytes are not read again.

    Raises:
        UserError: The folder is no model: no config.json or no ``*.safetensors`` in it.
    """
    read_model_config(folder, also=", or a run folder")
    weights = weight_files(folder)
    digest = xxhash.xxh3_128()
    for path in weights:
        digest.update(f"{path.name}\0{_weight_file(path, cache)}\n".encode())
    for path in settings_files(folder):
        digest.update(f"{path.name}\0{xxhash.xxh3_128_hexdigest(path.read_bytes())}\n".encode())
    return digest.hexdigest()


def _weight_file(path: Path, cache: EvalCache) -> str:
    real = path.resolve()
    state = real.stat()
    identity = f"{real}\0{state.st_mtime_ns}\0{state.st_size}"
    known = cache.get_notes("file", [identity]).get(identity)
    if known is not None:
        return known
    digest = xxhash.xxh3_128()
    with real.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    cache.put_notes("file", {identity: digest.hexdigest()})
    return digest.hexdigest()
