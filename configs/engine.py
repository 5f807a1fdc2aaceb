"""What sampling and serving both say about vLLM's engine."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from configs.base import Section


class EngineSection(Section):
    """A section with an engine of vLLM, whose defaults follow from the device."""

    enforce_eager: bool | None = Field(
        None,
        description="vLLM without CUDA graphs and compilation. By default false on GPUs and true on CPUs.",
    )
    async_scheduling: bool | None = Field(
        None,
        description="vLLM plans a step while the one before computes. By default true on GPUs, and false on CPUs, "
        "where it only adds a thread.",
    )

    @property
    @abstractmethod
    def on_gpu(self) -> bool:
        """Whether the engines have GPUs."""

    @property
    def eager(self) -> bool:
        """``enforce_eager``, or what is right for the device."""
        return not self.on_gpu if self.enforce_eager is None else self.enforce_eager

    @property
    def plans_ahead(self) -> bool:
        """``async_scheduling``, or what is right for the device."""
        return self.on_gpu if self.async_scheduling is None else self.async_scheduling
