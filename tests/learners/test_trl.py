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

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from configs.schema import LearnerConfig, ModelConfig
from learners.distributed import single_process
from learners.metrics import StepMetrics
from learners.session import LearnerSession
from rollout.records import Example, Pair
from tests.kits.learner import make_folder, make_groups, make_pairs

BETA = 0.3
PAIRS = make_pairs(5)
GROUPS = make_groups(3, answers=3)


@dataclass
class Folders:
    policy: Path
    reference: Path
    out: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A policy near its reference: two unrelated models would saturate every sigmoid."""
    base = tmp_path_factory.mktemp("trl")
    reference = make_folder(base / "reference")
    model = AutoModelForCausalLM.from_pretrained(reference)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    policy = make_folder(base / "policy")
    model.save_pretrained(policy)
    return Folders(policy, reference, base / "out")


@pytest.fixture(scope="module")
def trl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the versions of vLLM that it knows
        import trl
        import trl.experimental.cpo

        return trl


@dataclass
class Step:
    """One optimiser step: its loss, the gradients, and the weights before it."""

    loss: float
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    metrics: StepMetrics | None = None


def ours(folders: Folders, examples: list[Example], **fields: Any) -> list[Step]:
    """A round from the policy against the fixed reference, all examples in one step an epoch."""
    settings = {"reference": "initial", "nll_weight": 0.0, "beta": BETA, "tokens_per_micro_batch": 96} | fields
    if settings["objective"] in ("simpo", "cpo"):
        del settings["reference"]
    if settings["objective"] in ("rloo", "group"):
        del settings["beta"]
    # Clipping off; stage 0, where a parameter's gradient lies in the parameter.
    learner = LearnerConfig(pairs_per_step=len(examples), zero_stage=0, max_grad_norm=1e9, **settings)
    steps: list[Step] = []
    with single_process():
        session = LearnerSession(learner, ModelConfig(policy=folders.reference), 7, folders.policy)

        def read(*_: Any) -> None:
            named = dict(session.policy.named_parameters())
            gradients = {name: one.grad.clone() for name, one in named.items() if one.grad is not None}
            steps.append(Step(0.0, gradients, {name: one.detach().clone() for name, one in named.items()}))

        session.engine.deepspeed.optimizer.register_step_pre_hook(read)
        metrics = session.train_round(1, examples)
        session.close()
    return [replace(step, loss=m.values["loss"], metrics=m) for step, m in zip(steps, metrics.steps, strict=True)]


def theirs(trainer: Any, batches: list[dict[str, Any]], scale: float = 1.0) -> Step:
    """Mean of a trainer's loss over batches, times ``scale``, and its gradients."""
    model = trainer.model
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(model, batch) * scale / len(batches)
        loss.backward()
        total += loss.item()
    named = dict(model.named_parameters())
    gradients = {name: one.grad.clone() for name, one in named.items() if one.grad is not None}
    return Step(total, gradients, {name: one.detach() for name, one in named.items()})


def assert_same(mine: Step, other: Step, loss_error: float = 1e-5) -> None:
    assert abs(mine.loss - other.loss) < loss_error  # absolute, however large the loss is
    assert mine.gradients.keys() == other.gradients.keys()
    assert len(mine.gradients) == len(mine.weights)
    for name, expected in other.gradients.items():
        error, size = (mine.gradients[name] - expected).norm(), expected.norm()
        assert size > 1e-6, name
        assert error / size < 1e-4, f"{name}: {error / size:.2e}"


def common(folders: Folders, batch: int) -> dict[str, Any]:
    return {
        "output_dir": str(folders.out),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "per_device_train_batch_size": batch,
    }


def load(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    return model.train()  # what a trainer sets; there is no dropout


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


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


@pytest.fixture
def rloo_trainer(trl: Any, folders: Folders) -> Callable[[float, float], tuple[Any, list[dict[str, Any]]]]:
    """Makes a trainer whose sampling is replaced by the groups' answers; all behind it is TRL's."""
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(folders.policy)
    answers = [text for group in GROUPS for text in group.completions]
    rewards = [reward for group in GROUPS for reward in group.rewards]
    end = tokenizer.convert_tokens_to_ids("<|end|>")

    def make(kl_weight: float, clip: float) -> tuple[Any, list[dict[str, Any]]]:
        rows = [{"prompt": user(group.prompt)} for group in GROUPS]
        trainer = trl.RLOOTrainer(
            model=load(folders.policy),
            reward_funcs=lambda completions, **_: rewards,
            args=trl.RLOOConfig(
                beta=kl_weight,
                epsilon=clip,
                num_generations=3,
                max_completion_length=32,
                **common(folders, len(answers)),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if trainer.ref_model is not None:  # a second copy of the policy so far
            trainer.ref_model.load_state_dict(load(folders.reference).state_dict())
        trainer._generate_single_turn = lambda *_: [[*tokenizer(text)["input_ids"], end] for text in answers]
        return trainer, [row for row in rows for _ in range(3)]

    return make


def test_rloo_penalised_at_the_rounds_start(folders: Folders, rloo_trainer: Any) -> None:
    trainer, rows = rloo_trainer(0.3, 0.2)
    (mine,) = ours(folders, GROUPS, objective="rloo", rloo_kl_weight=0.3)
    assert_same(mine, theirs(trainer, [trainer._generate_and_score_completions(rows)]))
    assert mine.metrics is not None
    assert mine.metrics.values["ratio"] == pytest.approx(1, abs=1e-6)


def test_rloo_clipped_after_a_step(folders: Folders, rloo_trainer: Any) -> None:
    """The second step on the same answers. No penalty: TRL's is of the policy of the start, ours of the present one."""
    trainer, rows = rloo_trainer(0.0, 0.1)
    batch = trainer._generate_and_score_completions(rows)
    fields = {"rloo_kl_weight": 0.0, "rloo_clip": 0.1, "epochs": 2, "learning_rate": 3e-3}
    _, second = ours(folders, GROUPS, objective="rloo", **fields)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            parameter.copy_(second.weights[name])
    assert_same(second, theirs(trainer, [batch]))
    assert second.metrics is not None
    assert 0 < second.metrics.values["clip_fraction"] < 1
    assert second.metrics.values["clip_fraction"] == trainer._metrics["train"]["clip_ratio/region_mean"][-1]


# Our switches, and what makes TRL's trainer of them.
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (
        {"advantage": "group_z", "ratio": "token", "aggregate": "sequence", "kl": "k3", "kl_weight": 0.3},
        {"loss_type": "grpo", "scale_rewards": "group", "beta": 0.3, "use_bias_correction_kl": False},
    ),
    "dr_grpo": (
        {"advantage": "group_mean", "ratio": "token", "aggregate": "constant", "length": 32},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0},
    ),
    "dapo": (
        {"advantage": "group_z", "ratio": "token", "aggregate": "token", "clip_high": 0.28},
        {"loss_type": "bnpo", "scale_rewards": "group", "beta": 0.0, "epsilon_high": 0.28},
    ),
    "gspo": (
        {
            "advantage": "group_z",
            "ratio": "sequence_mean",
            "aggregate": "sequence",
            "clip_low": 3e-3,
            "clip_high": 4e-3,
        },
        {
            "loss_type": "grpo",
            "scale_rewards": "group",
            "beta": 0.0,
            "importance_sampling_level": "sequence",
            "epsilon": 3e-3,
            "epsilon_high": 4e-3,
        },
    ),
    "batch": (
        {"advantage": "batch_z", "ratio": "token", "aggregate": "token", "kl": "k3", "kl_weight": 0.1},
        {"loss_type": "bnpo", "scale_rewards": "batch", "beta": 0.1, "use_bias_correction_kl": False},
    ),
}


@pytest.fixture
def grpo_trainer(trl: Any, folders: Folders) -> Callable[..., tuple[Any, list[dict[str, Any]]]]:
    """As ``rloo_trainer``, of ``GRPOTrainer``."""
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(folders.policy)
    answers = [text for group in GROUPS for text in group.completions]
    rewards = [reward for group in GROUPS for reward in group.rewards]
    end = tokenizer.convert_tokens_to_ids("<|end|>")

    def make(**fields: Any) -> tuple[Any, list[dict[str, Any]]]:
        rows = [{"prompt": user(group.prompt)} for group in GROUPS]
        trainer = trl.GRPOTrainer(
            model=load(folders.policy),
            reward_funcs=lambda completions, **_: rewards,
            args=trl.GRPOConfig(
                num_generations=3,
                max_completion_length=32,
                **{"epsilon": 0.2, **fields},
                **common(folders, len(answers)),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if trainer.ref_model is not None:
            trainer.ref_model.load_state_dict(load(folders.reference).state_dict())
        trainer._generate_single_turn = lambda *_: ([[*tokenizer(text)["input_ids"], end] for text in answers], None)
        trainer.current_gradient_accumulation_steps = 1
        return trainer, [row for row in rows for _ in range(3)]

    return make


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_at_the_rounds_start_and_after_a_step(folders: Folders, grpo_trainer: Any, name: str) -> None:
    switches, fields = SWITCHES[name]
    trainer, rows = grpo_trainer(**fields)
    batch = trainer._generate_and_score_completions(rows)
    first, second = ours(folders, GROUPS, objective="group", group=switches, epochs=2, learning_rate=3e-3)
    assert_same(first, theirs(trainer, [batch]))
    # At the start the policies are one: TRL takes the present one's log-probabilities for the old ones.
    batch["old_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].size(1),
    )[0].detach()
    with torch.no_grad():
        for key, parameter in trainer.model.named_parameters():
            parameter.copy_(second.weights[key])
    assert_same(second, theirs(trainer, [batch]))
    assert second.metrics is not None
    assert 0 < second.metrics.values["clip_fraction"] < 1
    assert first.metrics is not None
    assert first.metrics.values["ratio"] == pytest.approx(1, abs=1e-6)


def test_rloo_is_one_setting_of_the_switches(folders: Folders) -> None:
    fields = {"epochs": 2, "learning_rate": 1e-4}
    switches = {"advantage": "loo", "ratio": "sequence", "aggregate": "sequence", "clip_low": 0.1, "clip_high": 0.1}
    whole_answers = {**switches, "kl": "reward", "kl_weight": 0.3}
    named = ours(folders, GROUPS, objective="rloo", rloo_clip=0.1, rloo_kl_weight=0.3, **fields)
    switched = ours(folders, GROUPS, objective="group", group=whole_answers, **fields)
    for mine, other in zip(switched, named, strict=True):
        assert_same(mine, other)
