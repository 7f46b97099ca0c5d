"""How long the parts of a step take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from lumina.train.watch import Look, register_look

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.data.stream import StepBatches

PARTS = ("forward", "backward", "optimizer")


class Marks:
    """Moments on the device: events of its stream on a GPU, the clock on a CPU.

    Args:
        cuda: steps run on the current CUDA device.
    """

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda

    def now(self) -> Any:
        """This moment, which on a GPU comes when the device has done what is queued."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """From one to the other, once the device has come to both."""
        return float(begin.elapsed_time(end) / 1000 if self.cuda else end - begin)


@register_look
class StepTimes(Look):
    """Forward, backward and optimizer, each the sum over the micro-batches of a step.

    The optimizer's part holds the exchange of gradients that is left, their norm and
    clipping, and what follows the update.
    """

    name = "step_times"

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        self._marks = Marks(program.device.type == "cuda")
        self._moments: list[tuple[str, Any]] = []

    def mark(self, moment: str) -> None:
        """Note the moment."""
        self._moments.append((moment, self._marks.now()))

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """`forward_time`, `backward_time` and `optimizer_time` in seconds."""
        spent = dict.fromkeys(PARTS, 0.0)
        for (_, begin), (part, end) in pairwise(self._moments):
            spent[part] += self._marks.seconds(begin, end)
        return {f"{part}_time": seconds for part, seconds in spent.items()}
