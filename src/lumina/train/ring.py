"""Metrics on their way to the host: copied as they are made, read a step late."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.train.clock import Interval, StepClock


@dataclass
class _Entry:
    row: dict[str, Any]
    values: Tensor
    interval: Interval


class MetricRing:
    """A queue of steps whose numbers are still on their way.

    Args:
        cuda: copies go to pinned memory and are waited for with an event.

    Attributes:
        clock: times the steps that are pushed.
    """

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.clock = StepClock(cuda)
        self._pending: deque[_Entry] = deque()

    def push(self, row: dict[str, Any], values: Tensor) -> None:
        """Queue a step: what the host knows, and a device vector it does not yet."""
        if self.cuda:
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = pinned.copy_(values, non_blocking=True)
        self._pending.append(_Entry(row, values, self.clock.step_ended()))

    def pop(self, leave: int) -> list[tuple[dict[str, Any], list[float]]]:
        """The oldest steps' rows and values, all but the newest `leave`.

        Waits for the device to finish the steps it returns. Each row is given
        `step_seconds`, as the clock measured them.
        """
        done = []
        while len(self._pending) > leave:
            entry = self._pending.popleft()
            entry.interval.wait()
            seconds = entry.interval.seconds()
            done.append((entry.row | {"step_seconds": seconds}, entry.values.tolist()))
        return done
