"""One whole round of TRL's ``OnlineDPOTrainer`` for ``benchmarks.round``, and its loss of pairs that were made here."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    if sys.argv[4].isdecimal():
        os.environ["OMP_NUM_THREADS"] = sys.argv[4]

import torch  # after the environment
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from benchmarks.workload import Size, prompts_of, size_of, worth


def _reward(prompts: Any, completions: Any, **_others: Any) -> list[float | None]:
    return [worth(one[0]["content"].strip()) for one in completions]


class _Trainer(OnlineDPOTrainer):
    """With a clock around generation, and the first loss and number of pairs kept."""

    generating, tokens, pairs, first_loss = 0.0, 0, 0, None

    def _generate(self, model: Any, prompts: Any, images: Any = None) -> Any:
        return self._timed(prompts, super()._generate, model, prompts, images)

    def _generate_vllm(self, prompts: Any, images: Any = None) -> Any:
        return self._timed(prompts, super()._generate_vllm, prompts, images)

    def _timed(self, prompts: Any, generate: Callable[..., Any], *given: Any) -> Any:
        begun = time.perf_counter()
        found = generate(*given)
        self.generating += time.perf_counter() - begun
        self.tokens += int(found[3].sum())
        self.pairs += len(prompts)
        return found

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        loss = super().training_step(*arguments, **named)
        if self.first_loss is None:
            self.first_loss = float(loss)
        return loss


def trainer_of(size: Size, dtype: str, folder: Path, *, vllm: bool = False) -> _Trainer:
    """A trainer with the model loaded, on the GPU if there is one; ``vllm``: it samples with an engine beside it."""
    tokenizer = AutoTokenizer.from_pretrained(size.model)
    model = AutoModelForCausalLM.from_pretrained(size.model, dtype=getattr(torch, dtype))
    asked = [{"prompt": [{"role": "user", "content": text}]} for _, text in prompts_of(size)]
    ends = {model.generation_config.eos_token_id, tokenizer.eos_token_id}
    assert all(isinstance(one, int) for one in ends), ends
    settings = OnlineDPOConfig(
        output_dir=str(folder), use_cpu=not torch.cuda.is_available(), bf16=False, fp16=False, report_to=[],
        disable_tqdm=True,
        save_strategy="no", per_device_train_batch_size=size.pairs_per_step,
        gradient_checkpointing=False, num_train_epochs=1,
        learning_rate=1e-5, lr_scheduler_type="constant", max_grad_norm=1.0, optim="adamw_torch_fused",
        max_new_tokens=size.tokens, max_length=size.tokens + 96, temperature=1.0, top_k=0, top_p=1.0, beta=[0.1],
        logging_steps=10_000, dataloader_pin_memory=False, use_vllm=vllm, vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.4,
    )  # fmt: skip
    return _Trainer(
        model=model, reward_funcs=_reward, args=settings, train_dataset=Dataset.from_list(asked),
        processing_class=tokenizer,
    )  # fmt: skip


def measure(size: Size, dtype: str, how: str) -> dict[str, Any]:
    """Figures of a round."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(size, dtype, Path(folder), vllm=how == "vllm")
        begun = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "stages": {"generate": trainer.generating, "reference and train": seconds - trainer.generating},
        "tokens": trainer.tokens,
        "pairs": trainer.pairs,
        "first_loss": trainer.first_loss,
    }


@torch.no_grad()
def loss_of(size: Size, pairs: list[list[str]], trained: Path) -> float:
    """TRL's mean loss (nats) of pairs under a trained policy, the size's own model as reference; float32."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(size, "float32", Path(folder))
    device = trainer.accelerator.device
    policy = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).to(device)
    tokenizer: Any = trainer.processing_class
    losses = []
    for prompt, *answers in pairs:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        ).to(device)
        sums = []
        for answer in answers:
            end = [tokenizer.eos_token_id]
            completion = torch.tensor(
                [[*tokenizer(answer, add_special_tokens=False)["input_ids"], *end]], device=device
            )
            given = (ids, torch.ones_like(ids), completion, torch.ones_like(completion))
            sums.append([float(trainer._forward(model, *given).sum()) for model in (policy, trainer.ref_model)])
        (chosen, chosen_before), (rejected, rejected_before) = sums
        margin = (chosen - chosen_before) - (rejected - rejected_before)
        losses.append(-torch.nn.functional.logsigmoid(torch.tensor(0.1 * margin)).item())
    return sum(losses) / len(losses)


def main() -> None:
    """``python -m benchmarks.round_trl SIZE MODEL DTYPE HOW [PAIRS TRAINED]``: figures as one line of JSON.

    HOW is a number of threads; on a GPU ``generate`` or ``vllm``.
    """
    name, model, dtype, how, *check = sys.argv[1:]
    size = size_of(name, Path(model))
    if check:
        print(json.dumps({"loss": loss_of(size, json.loads(Path(check[0]).read_text()), Path(check[1]))}))
        return
    print(json.dumps(measure(size, dtype, how)))


if __name__ == "__main__":
    main()
