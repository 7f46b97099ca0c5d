"""What several processes of a cell send each other, and whether they stay alike."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.program import Program

PREFIXES = ("gloo:", "nccl:")
"""How torch's profiler calls what a process group does."""


def several() -> bool:
    """Whether this process is one of several that train together."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return there and torch.distributed.get_world_size() > 1


class Collectives:
    """Counts what a process sends in one step, by torch's profiler.

    Attributes:
        found: "collectives", how many calls; "collective_numbers", the elements of all
            that was sent or received; "collective_seconds", the time that they took,
            in which the process may have gone on computing. Empty before `stop`.
    """

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._profile: Any = torch.profiler.profile(
            activities=activities, record_shapes=True
        )
        self._profile.__enter__()

    def stop(self) -> None:
        """The step is over."""
        if self._profile is None:
            return
        self._profile.__exit__(None, None, None)
        events = [e for e in self._profile.events() if e.name.startswith(PREFIXES)]
        self._profile = None
        self.found = {
            "collectives": float(len(events)),
            "collective_numbers": float(sum(_numbers(e.input_shapes) for e in events)),
            "collective_seconds": sum(e.time_range.elapsed_us() for e in events) / 1e6,
        }


def states_digest(program: Program) -> str | None:
    """A hash of all weights and moments, where this process holds them whole.

    Processes that each hold everything have to hold the same, to the bit; None where
    each holds a part.
    """
    digest = hashlib.sha256()
    for slot in program.optimizer.slots:
        if hasattr(slot.parameter, "full_tensor"):
            return None
        digest.update(slot.name.encode())
        for name, state in [("master", slot.master), *sorted(slot.state.items())]:
            digest.update(name.encode())
            digest.update(_bytes_of(state))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy())


def _numbers(shapes: Any) -> int:
    """Elements of the tensors of these shapes."""
    return sum(torch.Size(one).numel() for one in shapes or () if one)
