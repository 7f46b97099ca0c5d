"""The State: everything a run has learned, free of devices, ranks and wrappers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lumina.model.tensors import TensorInfo

JSON_PARTS = ("counters", "cursor", "journal", "extra", "spec", "plan", "config")
"""The fields of `State` that are plain JSON values."""


def nothing() -> None:
    """There is nothing to wait for."""


@dataclass
class State:
    """A run between two steps; on disk it is a checkpoint.

    Attributes:
        tensors: logical name -> whole, unsharded CPU tensor.
        optimizer: slot (exp_avg, exp_avg_sq, ema) -> logical name -> tensor.
        info: logical name -> role and axes.
        counters: step, tokens, skipped and so on.
        cursor: the position in the data.
        journal: the controls that were applied, oldest first.
        extra: whatever else must survive: random states, the orchestrator's state.
        spec: `ModelSpec.to_dict()`.
        plan: `Plan.to_dict()`.
        config: `Config.to_dict()`.
        arrived: returns when the tensors can be read; a copy may still be under way.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    info: dict[str, TensorInfo] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    cursor: dict[str, Any] = field(default_factory=dict)
    journal: list[Any] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    arrived: Callable[[], None] = field(default=nothing, repr=False, compare=False)

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return int(self.counters["step"])

    def json_parts(self) -> dict[str, Any]:
        """Everything but the tensors and their info."""
        return {name: getattr(self, name) for name in JSON_PARTS}

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        slots = [self.tensors, *self.optimizer.values()]
        return sum(tensor.nbytes for slot in slots for tensor in slot.values())

    def snapshot(self) -> State:
        """A copy in CPU memory that nothing done to this State can change."""
        self.arrived()
        return State(
            tensors=_copies(self.tensors),
            optimizer={slot: _copies(held) for slot, held in self.optimizer.items()},
            info=dict(self.info),
            **copy.deepcopy(self.json_parts()),
        )


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in tensors.items()
    }
