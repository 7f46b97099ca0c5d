"""A step that had no room: what is known of it, and what it was before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.quantities import byte_size


@dataclass(frozen=True)
class Before:
    """What the forwards of a step change beside gradients, as it was before.

    Attributes:
        carries: what a recurrent model holds for each forward.
        seen: how often each token was seen, where that is counted.
    """

    carries: list[Any]
    seen: Tensor | None

    @staticmethod
    def of(program: Program) -> Before:
        """As it is now."""
        counts = program.vocabulary
        seen = None if counts is None else counts.counts.clone()
        return Before(list(program.carries), seen)

    def restore(self, program: Program) -> None:
        """Drop the gradients of a step that broke off, and what its forwards did."""
        program.optimizer.zero_grad()
        program.carries[:] = self.carries
        if program.vocabulary is not None and self.seen is not None:
            program.vocabulary.counts.copy_(self.seen)
        if program.logit_clip is not None:
            program.logit_clip.forget()
        program.way.after_failure()


@dataclass(frozen=True)
class Shortage:
    """That memory ran out.

    Attributes:
        code: E201 of a device, E202 of the host.
        text: what was said about it.
        mine: on this rank; else on another one.
    """

    code: str
    text: str
    mine: bool = True


def figures(program: Program) -> dict[str, Any]:
    """What is known about the device's memory at this moment."""
    if program.device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(program.device)
    reserved = torch.cuda.memory_reserved(program.device)
    return {
        "total_bytes": total,
        "free_bytes": free,
        "reserved_bytes": reserved,
        "allocated_bytes": torch.cuda.memory_allocated(program.device),
        "others_bytes": max(total - free - reserved, 0),
        "held": f"{byte_size(free)} free of {byte_size(total)}",
    }
