"""Training of a reward model: a sequence classifier with one label, Bradley-Terry loss, Transformers' Trainer.

Loss of a pair: -log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; as in arXiv 2203.02155 with two answers).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity, set_verbosity_error

from configs.errors import UserError
from configs.model_config import CONFIG_FILE, is_model_folder
from configs.reading import shown
from configs.reward_training import RewardTrainingConfig
from learners.reward_model.pairs import EncodedPair
from learners.tokenizer import load_tokenizer

_PAD = "<|pad|>"


def load_base(folder: Path, training: RewardTrainingConfig) -> tuple[Any, Any]:
    """The model with a new head of one label (seeded), and its tokenizer, which has a padding token of its own.

    A folder that is a reward model already keeps its head.

    Raises:
        UserError: The folder holds no model with a sequence-classification form, or no tokenizer, or they do not fit.
    """
    if not is_model_folder(folder):
        raise UserError(f"{folder}: no {CONFIG_FILE} in it; name a Hugging Face model folder")
    disable_progress_bar()
    before = get_verbosity()
    set_verbosity_error()  # that the head is new needs no report
    set_seed(training.seed)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=1)
        tokenizer = load_tokenizer(folder)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True, ignore_mismatched_sizes=False
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        said = shown(str(error).splitlines()[0] if str(error) else type(error).__name__, 300)
        raise UserError(
            f"{folder}: cannot be loaded as a sequence classifier with one label ({said}); name a language model whose "
            "architecture Transformers has a sequence-classification form of, with its tokenizer"
        ) from error
    finally:
        set_verbosity(before)
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        # The score is read at the last token that is no padding: an end of turn that doubles as padding would move it.
        tokenizer.add_special_tokens({"pad_token": _PAD})
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer))
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens and the model's embedding {rows}; they belong to "
            "different models, save both together again"
        )
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


class _Pairs(Dataset[EncodedPair]):
    def __init__(self, rows: Sequence[EncodedPair]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> EncodedPair:
        return self._rows[index]


class _Padded:
    """Chosen conversations, then rejected ones, padded on the right: (2 x pairs, longest)."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, pairs: Sequence[EncodedPair]) -> dict[str, torch.Tensor]:
        rows = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        ids = torch.full((len(rows), max(map(len, rows))), self._pad)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}


def bradley_terry(scores: torch.Tensor) -> torch.Tensor:
    """Mean loss of pairs.

    Args:
        scores: (2 x pairs,), those of the chosen answers first.
    """
    chosen, rejected = scores.float().chunk(2)
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


class _RewardTrainer(Trainer):
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        output = model(**inputs)
        loss = bradley_terry(output.logits[:, 0])
        return (loss, output) if return_outputs else loss


class _Told(TrainerCallback):
    """Passes steps and losses on, and asks whether to stop."""

    def __init__(self, step: Callable[[int, int], None], should_stop: Callable[[], bool]) -> None:
        self._step, self._should_stop = step, should_stop
        self.losses: list[float] = []
        self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._step(state.global_step, state.max_steps)
        if self._should_stop() and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[EncodedPair],
    training: RewardTrainingConfig,
    *,
    out: Path,
    scratch: Path,
    step: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[float] | None:
    """Train, and write model and tokenizer into ``out``.

    Args:
        model: Of :func:`load_base`.
        tokenizer: Its.
        rows: Pairs to train on.
        training: How.
        out: Where the model is written, at the end.
        scratch: Checkpoints on the way; a training that finds one continues there. Removed at the end.
        step: Told (steps done, steps in all).
        should_stop: Asked after every step.

    Returns:
        Losses on the way, one for about each twentieth; None where it was stopped, with a checkpoint kept.

    Raises:
        UserError: The loss is not finite.
    """
    steps = -(-len(rows) // training.pairs_per_step) * training.epochs
    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=training.micro_batch,
        gradient_accumulation_steps=training.pairs_per_step // training.micro_batch,
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=round(training.warmup_share * steps),
        lr_scheduler_type="linear",
        seed=training.seed,
        data_seed=training.seed,
        bf16=training.dtype == "bfloat16",
        logging_steps=max(1, steps // 20),
        logging_nan_inf_filter=False,
        save_strategy="steps" if training.saves else "no",
        save_steps=max(1, steps // (training.saves + 1)),
        save_total_limit=1,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
    told = _Told(step, should_stop)
    trainer = _RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=_Pairs(rows),
        data_collator=_Padded(tokenizer.pad_token_id),
        callbacks=[told],
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is a mean over pairs, to be averaged over micro-batches
    trainer.remove_callback(_printer())
    last = get_last_checkpoint(str(scratch)) if scratch.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    if told.stopped:
        return None
    if not all(torch.isfinite(torch.tensor(told.losses))):
        raise UserError("the loss is not finite; lower training.learning_rate")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    shutil.rmtree(scratch, ignore_errors=True)
    return told.losses


def _printer() -> type[TrainerCallback]:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
