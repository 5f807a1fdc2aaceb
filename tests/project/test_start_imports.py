"""What is imported before the first token: Transformers' models take seconds, and driver and engines need none."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["actors.train.run", "actors.engine.rollout", "actors.reward.worker"])
def test_no_models_of_transformers_are_imported(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "found = {'transformers.modeling_utils', 'deepspeed', 'vllm', 'learners.session'} & set(sys.modules); "
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-500:]
