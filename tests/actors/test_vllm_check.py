"""What is said of a machine that has no vLLM, another one, or not what it needs."""

from __future__ import annotations

import importlib.metadata

import pytest

from actors.machine import vllm_check
from actors.machine.vllm_check import check_vllm
from configs.errors import UserError


def test_installed_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_vllm(gpu=False).startswith("0.32")
    monkeypatch.setattr(vllm_check, "_NUMA", "libnowhere.so.7")
    assert check_vllm(gpu=True).startswith("0.32"), "the CUDA build does not need it"


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.33.1")
    with pytest.raises(UserError, match=r"0\.33\.1.*<0\.33"):
        check_vllm(gpu=False)


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(UserError, match="vLLM is not installed"):
        check_vllm(gpu=True)


def test_system_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_check, "_NUMA", "libnowhere.so.7")
    with pytest.raises(UserError, match=r"needs the system's libnowhere\.so\.7 .*apt-get install libnuma1"):
        check_vllm(gpu=False)
