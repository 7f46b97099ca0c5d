"""The allocator of a GPU, limited as on a smaller card."""

from __future__ import annotations

import torch

from lumina.plan.environment import Environment


class MemoryCap:
    """Limits what this process may allocate on its GPU, until it is lifted.

    Args:
        machine: as planned for; its memory is the limit.
    """

    def __init__(self, machine: Environment) -> None:
        self._device = torch.cuda.current_device()
        total = torch.cuda.get_device_properties(self._device).total_memory
        self._limit(min(1.0, machine.memory_bytes / total))

    def lift(self) -> None:
        """Let the process have the whole GPU again."""
        self._limit(1.0)

    def _limit(self, share: float) -> None:
        torch.cuda.set_per_process_memory_fraction(share, self._device)
