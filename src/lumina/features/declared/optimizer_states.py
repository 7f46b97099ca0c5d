"""Optimizer states that live in host memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lumina.features.feature import Feature, Machine
from lumina.features.table import register


def _memory(spec: Any, layout: Any) -> Mapping[str, int]:
    """On the device are only the pages that a step works on."""
    states = layout.states_here(spec)
    return {"optimizer": min(states, layout.pages_here(spec)) - states}


def _on_host(spec: Any, layout: Any) -> Mapping[str, int]:
    return {"host": layout.states_here(spec)}


def _on_disk(spec: Any, layout: Any) -> Mapping[str, int]:
    """The files, and for a GPU the pinned memory that pages pass through."""
    states = layout.states_here(spec)
    staging = 0 if layout.device == "cpu" else layout.pages_here(spec)
    return {"disk": states, "host": min(states, staging)}


def _beside_a_cuda_device(machine: Machine) -> str | None:
    if machine.device == "cuda":
        return None
    return (
        f"needs a CUDA device: the memory of {machine.device_name} is the host's, "
        "where the states are anyway"
    )


def _not_apple(machine: Machine) -> str | None:
    return None if machine.device != "mps" else "was not tried on Apple GPUs"


def _declare(
    place: str,
    summary: str,
    needs: Callable[[Machine], str | None],
    elsewhere: Callable[[Any, Any], Mapping[str, int]],
) -> None:
    register(
        Feature(
            name=f"optimizer_states_{place}",
            option="optimizer_states_in",
            summary=summary,
            without="--optimizer-states-in device",
            requested=lambda c: c.offload.optimizer_states_in == place,
            active=lambda p: p.optimizer_states_in == place,
            switch_on=lambda p: p.replace(optimizer_states_in=place),
            needs=needs,
            memory=_memory,
            elsewhere=elsewhere,
        )
    )


_declare(
    "host",
    "keep the optimizer's states in pinned host memory, page them in for a step",
    _beside_a_cuda_device,
    _on_host,
)
_declare(
    "disk",
    "keep the optimizer's states in files, page them in for a step",
    _not_apple,
    _on_disk,
)
