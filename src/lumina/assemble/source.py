"""Where the tensors of a Program come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lumina.state.state import State


class Source(Protocol):
    """Where a Program's tensors come from: a State in memory or a checkpoint."""

    def names(self) -> list[str]:
        """Logical names of the weights and persistent buffers."""

    def tensor(self, name: str) -> Tensor:
        """A weight or buffer, whole, on the CPU."""

    def optimizer_names(self, slot: str) -> list[str]:
        """Logical names that a slot (an optimizer's state, ema, carry) holds."""

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """A state or average, whole, on the CPU."""


@dataclass
class StateSource:
    """A State in memory as a `Source`."""

    state: State

    def names(self) -> list[str]:
        """Logical names of the weights and persistent buffers."""
        return list(self.state.tensors)

    def tensor(self, name: str) -> Tensor:
        """A weight or buffer."""
        return self.state.tensors[name]

    def optimizer_names(self, slot: str) -> list[str]:
        """Logical names that a slot holds."""
        return list(self.state.optimizer.get(slot, {}))

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """A state or average."""
        return self.state.optimizer[slot][name]
