"""Health, placement and environment: the pure parts of the actors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.plan.colocate import learner_threads, turns
from actors.plan.placement import PlacementPlan, check_capacity, local_cpus
from actors.runtime.env import apply_env, base_env, driver_env, learner_env, rollout_env, runtime_env
from actors.runtime.health import Health, IllegalTransition, State
from configs.errors import UserError
from configs.load import load_config
from tests.kits.actors import small_config
from tests.kits.imports import check_left_out

DEMO = Path("configs/demo.yaml")
LARGE = ["model.policy=absent"]  # only a small model's weights are looked at

STEPS = {
    "loaded": lambda h, v: h.loaded(v),
    "loaded again": lambda h, v: h.loaded(v, restarted=True),
    "begin": lambda h, v: h.begin(),
    "finish": lambda h, v: h.finish(),
    "refitted": lambda h, v: h.refitted(v),
    "refit failed": lambda h, v: h.refit_failed("checksum"),
}
ALLOWED = {
    State.STARTING: {"loaded", "loaded again"},
    State.READY: {"begin", "refitted", "refit failed"},
    State.BUSY: {"finish"},
    State.STALE: {"refitted", "refit failed"},
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 5)), max_size=40))
def test_no_path_gives_work_to_unverified_weights(path: list[tuple[str, int]]) -> None:
    """Only the table's steps are taken, and BUSY is reached with a known version only."""
    health = Health("a")
    known: int | None = None  # the version whose weights were loaded or verified, None when that is not certain
    for step, version in path:
        try:
            after = STEPS[step](health, version)
        except IllegalTransition:
            back = step == "refitted" and health.state is State.READY and version < health.version
            assert step not in ALLOWED[health.state] or back
            continue
        assert step in ALLOWED[health.state]
        if step in ("loaded", "refitted"):
            known = version
        elif step in ("refit failed", "loaded again"):
            known = None
        if after.state in (State.BUSY, State.READY):
            assert after.version == known
        health = after


def test_restart_has_base_weights_and_gets_no_work() -> None:
    again = Health("a").loaded(4, restarted=True)
    assert (again.state, again.version) == (State.STALE, 0)
    with pytest.raises(IllegalTransition, match="needs a refit"):
        again.begin()
    assert again.refitted(4).begin().state is State.BUSY


@pytest.mark.parametrize(
    ("overrides", "cores", "expected"),
    [
        ([], 2, 3.0),  # rollout and reward, then the learner: two cores are enough for three reservations
        ([], 3, None),
        ([], 1, None),
        (["rollout.actors=9"], 2, None),
        (["learner.workers=3", "learner.zero_stage=1"], 2, None),
        (["learner.workers=2", "learner.zero_stage=1"], 2, 4.0),
        (["cluster.colocate=false"], 2, None),
        (["cluster.num_cpus=2"], 2, None),
        (["cluster.address=auto", "cluster.colocate=true"], 2, None),
    ],
)
def test_stages_that_take_turns_fit_a_small_machine(overrides: list[str], cores: int, expected: float | None) -> None:
    whole = [f"{name}=1" for name in ("rollout.cpus_per_actor", "reward.cpus_per_actor", "learner.cpus_per_worker")]
    config = load_config(DEMO, ["rollout.actors=1", *whole, *overrides])
    assert local_cpus(config, PlacementPlan.from_config(config), cores) == expected


def test_capacity_names_every_role_and_the_cure(tmp_path: Path) -> None:
    config = small_config(tmp_path, tmp_path, tmp_path, learner={"workers": 2, "gpus_per_worker": 1.0})
    plan = PlacementPlan.from_config(config)
    assert plan.totals() == {"CPU": 3.5, "GPU": 2.0}
    assert plan.rows()[-1] == ("total", 6, 0.0, 0.0, 3.5, 2.0)
    check_capacity(plan, {"CPU": 3.5, "GPU": 2})
    with pytest.raises(UserError) as caught:
        check_capacity(plan, {"CPU": 3.0})
    message = str(caught.value)
    for part in ("3.5 CPUs", "has 3;", "rollout 2 x 0.5", "reward 1 x 0.5", "learner 2 x 1", "2 GPUs", "has 0"):
        assert part in message
    for field in ("rollout.cpus_per_actor", "reward.actors", "learner.gpus_per_worker", "cluster.num_cpus"):
        assert field in message
    assert "rollout.gpus_per_actor" not in message, "it needs none"


def test_engine_over_more_gpus_than_reserved(tmp_path: Path) -> None:
    config = small_config(tmp_path, tmp_path, tmp_path, rollout={"tensor_parallel": 2, "gpus_per_actor": 1.0})
    with pytest.raises(UserError, match=r"rollout\.gpus_per_actor: 1 .* set it to 2"):
        PlacementPlan.from_config(config)


def test_exported_values_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("VLLM_HOST_IP", raising=False)
    variables = runtime_env(rollout_env())["env_vars"]
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["VLLM_HOST_IP"] == "127.0.0.1"
    apply_env({"OMP_NUM_THREADS": "1"})
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_environments() -> None:
    assert driver_env()["RAY_AUTH_MODE"] == "token"
    assert not any(name.startswith("RAY_AUTH") for name in base_env()), "workers inherit it from their node"
    assert "TORCH_COMPILE_DISABLE" not in rollout_env(gpu=True)
    assert learner_env()["DS_ACCELERATOR"] == "cpu"
    assert "DS_ACCELERATOR" not in learner_env(gpu=True)


def test_planning_imports_neither_ray_nor_torch() -> None:
    code = "import actors.runtime.env, actors.runtime.health, actors.plan.placement"
    check_left_out(code, "ray", "torch", "vllm")


def test_a_run_is_checked_before_torch_is_imported() -> None:
    """It is a second and a third of each start, before the first line."""
    code = (
        "from pathlib import Path; import actors.train.run; "
        "from actors.plan.preflight import check_inputs; from configs.load import load_config; "
        "check_inputs(load_config(Path('configs/demo.yaml'), []))"
    )
    check_left_out(code, "torch")


def test_a_stage_alone_has_all_cores() -> None:
    config = load_config(DEMO, LARGE)
    assert config.colocated
    assert learner_threads(config, 8) == 8
    assert [row[:2] for row in turns(config, 8)] == [
        ("sampling and scoring", "rollout: 2 x 1 thread, reward: 1 x 1 thread"),
        ("training", "learner: 1 x 8 threads"),
    ]
    assert learner_threads(load_config(DEMO, [*LARGE, "learner.workers=2"]), 8) == 4
    assert learner_threads(load_config(DEMO, [*LARGE, "learner.workers=9"]), 8) == 1
    gpus = load_config(
        DEMO, [*LARGE, "learner.gpus_per_worker=1", "rollout.gpus_per_actor=0.5", "reward.gpus_per_actor=0.5"]
    )
    assert learner_threads(gpus, 8) == 1
    assert turns(gpus, 8)[1][1:] == (
        "learner: 1 x 1 GPUs",
        "engines asleep (weights in main memory, no key-value cache), reward models in main memory",
    )
    joined = ["cluster.address=auto", "learner.cpus_per_worker=3"]
    assert learner_threads(load_config(DEMO, [*LARGE, *joined]), 8) == 1, "others may be at work there"
    assert learner_threads(load_config(DEMO, [*LARGE, *joined, "cluster.colocate=true"]), 8) == 3


def test_a_small_model_gets_one_thread(tmp_path: Path) -> None:
    config = load_config(DEMO, [f"model.policy={tmp_path}"])
    weights = tmp_path / "model.safetensors"
    for size, threads in ((8, 1), (64 * 2**20, 8)):
        with weights.open("wb") as file:
            file.truncate(size)
        assert learner_threads(config, 8) == threads


def test_stages_that_overlap_share_nothing() -> None:
    stale = ["schedule.max_staleness=1"]
    config = load_config(DEMO, stale)
    assert not config.colocated
    assert learner_threads(config, 8) == 1
    assert turns(config, 8)[0][2] == "may overlap training"
    assert learner_threads(load_config(DEMO, ["cluster.colocate=false"]), 8) == 1
    with pytest.raises(UserError, match=r"cluster\.colocate: .*max_staleness 1 .* set that to 0, or colocate to auto"):
        load_config(DEMO, [*stale, "cluster.colocate=true"])


def test_more_threads_than_one_are_the_configs_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runtime_env(base_env())["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert runtime_env(base_env(), 3)["env_vars"]["OMP_NUM_THREADS"] == "3"
    assert runtime_env(base_env(), 3)["env_vars"]["OMP_WAIT_POLICY"] == "passive"
    assert learner_env(threads=2)["OMP_NUM_THREADS"] == "2"
