"""How long steps take: measured on the device that runs them, not on the host.

On a GPU the host runs ahead of the device, so the moment at which it reads a step's
numbers says little about the step. Events on the device's stream mark its ends there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Interval:
    """From the end of the step before, or a restart of the clock, to a step's end.

    It therefore includes what the device waited for between two steps, such as data,
    and leaves out evaluations, checkpoints and reassemblies.

    Attributes:
        begin: a moment on the host (seconds) or an event on the device.
        end: likewise.
    """

    begin: float | torch.cuda.Event
    end: float | torch.cuda.Event

    def wait(self) -> None:
        """Wait until the device has come to the end."""
        if isinstance(self.end, torch.cuda.Event):
            self.end.synchronize()

    def seconds(self) -> float:
        """Its length, once the device has come to the end."""
        if isinstance(self.end, torch.cuda.Event):
            assert isinstance(self.begin, torch.cuda.Event)
            return float(self.begin.elapsed_time(self.end)) / 1000
        assert isinstance(self.begin, float)
        return self.end - self.begin


class StepClock:
    """Marks the ends of steps.

    Args:
        cuda: steps run on the current CUDA device; otherwise the host runs them.
    """

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self._mark = self._now()

    def restart(self) -> None:
        """Leave out of the next step's time what came before this moment."""
        self._mark = self._now()

    def step_ended(self) -> Interval:
        """The interval of the step that was launched last."""
        begin, self._mark = self._mark, self._now()
        return Interval(begin, self._mark)

    def _now(self) -> float | torch.cuda.Event:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
