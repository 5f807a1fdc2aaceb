"""An engine split over two processes (tensor parallelism, here on CPUs): the whole weight path, part by part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from learners.weights import in_buckets
from tests.kits.tiny import build_tiny_model

# Its own process: engines of one process share vLLM's process groups.
SCRIPT = """
import sys
from pathlib import Path
from actors.runtime.env import apply_driver_env

apply_driver_env()

def main():
    import actors.engine.vllm_engine
    from actors.engine.vllm_engine import VllmEngine
    from actors.runtime.health import SyncError
    from learners.weights import in_buckets
    from tests.kits.actors import perturbed, publish, sending
    from tests.actors.test_engine import greedy, random_prompts, reference_greedy

    actors.engine.vllm_engine.PART_BYTES = 100_000  # several parts
    folder = Path(sys.argv[1])
    engine = VllmEngine(folder, "float32", 256, 0.0625, 64, tensor_parallel=2, name="split")
    requests = greedy(random_prompts(32))
    before = [output.token_ids for output in engine.generate(requests)]
    model = perturbed(folder, seed=2)
    manifest, arrays = publish(model, version=1)
    parts = in_buckets(arrays.values(), lambda array: array.nbytes, actors.engine.vllm_engine.PART_BYTES)
    engine.update_weights(manifest, arrays)
    after = [output.token_ids for output in engine.generate(requests)]
    expected = [reference_greedy(model, request.prompt_ids) for request in requests]

    # A broadcast whose sender gives up half way, then one to both processes that succeeds.
    model = perturbed(folder, seed=3)
    manifest, arrays = publish(model, version=2)
    for fails in (True, False):
        wrong = {**arrays, "model.norm.weight": arrays["model.norm.weight"] + 1}
        with sending(manifest, wrong if fails else arrays, takers=2) as (host, sent):
            try:
                report = engine.receive_weights(manifest, host.rendezvous.seat(1))
                sent.result(30)
            except SyncError as error:
                print("refused", error)
    later = [output.token_ids for output in engine.generate(requests)]
    expected_later = [reference_greedy(model, request.prompt_ids) for request in requests]
    print("broadcast", report.version, "equal", sum(a == e for a, e in zip(later, expected_later)))
    print("parts", len(parts), "equal", sum(a == e for a, e in zip(after, expected)),
          "kept", sum(a == b for a, b in zip(after, before)))

if __name__ == "__main__":
    main()
"""


def test_parts_keep_order_and_size() -> None:
    sizes = {"a": 40, "b": 80, "c": 400, "d": 20, "e": 20}
    assert in_buckets(sizes, sizes.__getitem__, 120) == [["a", "b"], ["c"], ["d", "e"]]
    assert in_buckets({}, sizes.__getitem__, 120) == []


@pytest.mark.vllm
@pytest.mark.timeout(180)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="vLLM binds each process of a split engine to a CPU")
def test_split_engine_equals_transformers_after_an_update(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tied", tied=True, seed=1)
    script = tmp_path / "split.py"
    script.write_text(SCRIPT)
    one, two, *_ = sorted(os.sched_getaffinity(0))
    # vLLM would bind by NUMA node, and one node is too few for it.
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": f"{one}|{two}", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=170,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stdout.splitlines() if line.startswith(("refused", "broadcast", "parts"))]
    assert "refused split: weights of version 2 were not taken: BroadcastFailed" in said[0], done.stdout
    assert said[1] == "broadcast 2 equal 32", done.stdout
    assert said[2].split()[2:] == ["equal", "32", "kept", "0"], done.stdout
    assert int(said[2].split()[1]) > 2
