"""Loss and all gradients against TRL's own trainers: same batch, same policy, same reference, float32.

Ours come from a real round of the session (packed, prefix-shared, DeepSpeed), read off just before the optimiser's
step; TRL's from ``compute_loss`` of a real trainer over the batch that its own data preparation makes of the texts.

Where TRL differs by design:

* ``ipo``: TRL divides by the answers' lengths, which is ``ipo_mean`` here. The summed form of the paper is held
  against it on answers of one length ``L``: ``(h - 1 / 2b)^2 = L^2 (h / L - 1 / 2bL)^2``, its loss at ``beta = bL``
  times ``L^2``. That multiplies TRL's own rounding too (1.0e-5 of the 1.3e-5 between the two, measured), so the loss is
  held to 1e-5 against float64 instead, and to 3e-5 against TRL.
* conservative DPO: no loss type of ``DPOTrainer``; but ``2 (1 - e) sigmoid - (1 - 2e) robust`` is one.
* the NLL term: TRL's is a mean over the tokens of the batch, ours over answers of their means over tokens. Both are
  the same in batches of one pair, whose losses are averaged.
* ``dpop``: TRL has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from rollout.records import Pair
from tests.kits.learner import make_pairs
from tests.kits.trl import (
    BETA,
    Folders,
    assert_same,
    common,
    load,
    ours,
    theirs,
    user,
)

PAIRS = make_pairs(5)


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def dpo_trainer(trl: Any, folders: Folders, pairs: list[Pair], **fields: Any) -> Any:
    from datasets import Dataset

    rows = [{"prompt": user(p.prompt), "chosen": assistant(p.chosen), "rejected": assistant(p.rejected)} for p in pairs]
    return trl.DPOTrainer(
        model=load(folders.policy),
        ref_model=load(folders.reference),
        args=trl.DPOConfig(**{"beta": BETA, **common(folders, len(rows)), **fields}),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folders.policy),
    )


def whole(trainer: Any) -> list[dict[str, Any]]:
    """One batch of all rows."""
    return [trainer.data_collator(list(trainer.train_dataset))]


def row_by_row(trainer: Any) -> list[dict[str, Any]]:
    return [trainer.data_collator([row]) for row in trainer.train_dataset]


@pytest.mark.parametrize(
    ("fields", "trl_fields"),
    [
        ({"objective": "sigmoid"}, {"loss_type": ["sigmoid"]}),
        (
            {"objective": "sigmoid", "label_smoothing": 0.2},
            {"loss_type": ["sigmoid", "robust"], "loss_weights": [1.6, -0.6], "label_smoothing": 0.2},
        ),
        ({"objective": "robust", "label_smoothing": 0.2}, {"loss_type": ["robust"], "label_smoothing": 0.2}),
        ({"objective": "sigmoid_norm"}, {"loss_type": ["sigmoid_norm"]}),
        ({"objective": "ipo_mean"}, {"loss_type": ["ipo"]}),
        ({"objective": "hinge"}, {"loss_type": ["hinge"]}),
        ({"objective": "apo_zero"}, {"loss_type": ["apo_zero"]}),
        ({"objective": "apo_down"}, {"loss_type": ["apo_down"]}),
    ],
    ids=["sigmoid", "cdpo", "robust", "sigmoid_norm", "ipo_mean", "hinge", "apo_zero", "apo_down"],
)
def test_dpo_family(trl: Any, folders: Folders, fields: dict[str, Any], trl_fields: dict[str, Any]) -> None:
    trainer = dpo_trainer(trl, folders, PAIRS, **trl_fields)
    assert len({len(row["prompt_ids"]) for row in trainer.train_dataset}) > 1  # padding matters
    (mine,) = ours(folders, PAIRS, **fields)
    assert_same(mine, theirs(trainer, whole(trainer)))


@pytest.mark.parametrize("objective", ["sigmoid", "apo_zero"])
def test_nll_term_beside_a_preference_loss(trl: Any, folders: Folders, objective: str) -> None:
    trainer = dpo_trainer(trl, folders, PAIRS, loss_type=[objective, "sft"], loss_weights=[1.0, 0.7])
    (mine,) = ours(folders, PAIRS, objective=objective, nll_weight=0.7)
    assert_same(mine, theirs(trainer, row_by_row(trainer)))


def test_summed_ipo_on_answers_of_one_length(trl: Any, folders: Folders) -> None:
    pairs = [replace(p, chosen=f"good{n:04d}", rejected=f"bad {n:04d}") for n, p in enumerate(PAIRS)]
    trainer = dpo_trainer(trl, folders, pairs, loss_type=["ipo"], beta=BETA * 9)  # 8 bytes and the end of turn
    assert {len(row["chosen_ids"]) for row in trainer.train_dataset} == {9}
    (mine,) = ours(folders, pairs, objective="ipo")
    assert_same(mine, theirs(trainer, whole(trainer), scale=81), loss_error=3e-5)
    policy, reference = load(folders.policy).double(), load(folders.reference).double()
    losses = []
    for row in trainer.train_dataset:
        good, bad = (
            exact_logprob(policy, row["prompt_ids"], answer) - exact_logprob(reference, row["prompt_ids"], answer)
            for answer in (row["chosen_ids"], row["rejected_ids"])
        )
        losses.append((good - bad - 1 / (2 * BETA)) ** 2)
    assert abs(mine.loss - sum(losses) / len(losses)) < 1e-5


@torch.no_grad()
def exact_logprob(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> float:
    ids = torch.tensor([prompt + answer])
    logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(answer)[:, None]).sum().item()


@pytest.mark.parametrize("nll", [0.0, 0.7])
@pytest.mark.parametrize(("objective", "smoothing"), [("cpo", 0.0), ("cpo", 0.2), ("simpo", 0.0), ("simpo", 0.2)])
def test_objectives_without_a_reference(
    trl: Any, folders: Folders, objective: str, smoothing: float, nll: float
) -> None:
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(folders.policy, eos_token="<|end|>", bos_token=None)
    rows = [
        {
            "prompt": f"<|user|>{p.prompt}<|end|><|assistant|>",
            "chosen": f"{p.chosen}<|end|>",
            "rejected": f"{p.rejected}<|end|>",
        }
        for p in PAIRS
    ]
    trainer = trl.experimental.cpo.CPOTrainer(
        model=load(folders.policy),
        args=trl.experimental.cpo.CPOConfig(
            beta=BETA,
            loss_type="simpo" if objective == "simpo" else "sigmoid",
            label_smoothing=smoothing,
            cpo_alpha=nll,
            simpo_gamma=0.4,
            **common(folders, len(rows)),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    own = {"simpo_gamma": 0.4} if objective == "simpo" else {}
    (mine,) = ours(folders, PAIRS, objective=objective, label_smoothing=smoothing, nll_weight=nll, **own)
    assert_same(mine, theirs(trainer, row_by_row(trainer) if nll else whole(trainer)))


@pytest.mark.parametrize(
    ("desirable", "undesirable", "swapped"), [(1.0, 1.0, True), (1.3, 0.6, True), (1.0, 1.0, False)]
)
def test_kto(trl: Any, folders: Folders, desirable: float, undesirable: float, swapped: bool) -> None:
    """One way round the policy likes other prompts' answers more than the reference does, the other way ``z0`` is 0."""
    from datasets import Dataset

    if swapped:
        folders = Folders(folders.reference, folders.policy, folders.out)
    # TRL puts the previous row's answer behind a prompt, within a batch of rows; we that of the pair with the next id.
    backwards = sorted(PAIRS, key=lambda pair: pair.id, reverse=True)
    rows = [{"prompt": user(p.prompt), "completion": assistant(p.chosen), "label": True} for p in backwards]
    rows += [{"prompt": user(p.prompt), "completion": assistant(p.rejected), "label": False} for p in backwards]
    trainer = trl.KTOTrainer(
        model=load(folders.policy),
        ref_model=load(folders.reference),
        args=trl.KTOConfig(
            beta=BETA,
            desirable_weight=desirable,
            undesirable_weight=undesirable,
            **common(folders, len(PAIRS)),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folders.policy),
    )
    (mine,) = ours(folders, PAIRS, objective="kto", kto_desirable_weight=desirable, kto_undesirable_weight=undesirable)
    other = theirs(trainer, whole(trainer))
    assert_same(mine, other)
    divergence = trainer._metrics["train"]["kl"][-1]
    assert mine.metrics is not None
    assert mine.metrics.values["divergence"] == pytest.approx(divergence, abs=1e-4)
    assert (divergence > 0.1) is swapped
