"""A row's figures of speed: how much a second, and how long a pass over the data is."""

from __future__ import annotations

import math
from typing import Any

from lumina.plan.flops import hardware_flops_per_token
from lumina.plan.hardware import peak_flops
from lumina.plan.plan import Plan


class Pace:
    """How fast the steps of a run are.

    Args:
        device_name: for the peak rate, without which utilisation is not known.
        kind: the kind of arithmetic, "tf32" or a compute type.
    """

    def __init__(self, device_name: str, kind: str) -> None:
        self._peak = peak_flops(device_name, kind)
        self._pass: int | None = None  # of the data, which the steps were last in
        self._seconds: float | None = None  # of its steps; None: its begin was not seen

    def row(
        self,
        plan: Plan,
        step: int,
        seconds: float,
        tokens: int,
        epoch: float | None,
    ) -> dict[str, Any]:
        """Keys of a row of metrics.jsonl.

        Args:
            plan: what the step's Program realised.
            step: its number, from 1.
            seconds: that the step took.
            tokens: of the step, over all ranks.
            epoch: passes over the data after the step; None where not known.
        """
        rate = tokens / seconds if seconds > 0 else None
        rows = plan.global_batch_size
        return {
            "tokens_per_second": rate,
            "samples_per_second": rows / seconds if seconds > 0 else None,
            "steps_per_second": 1 / seconds if seconds > 0 else None,
            "step_seconds": seconds,
            "mfu": self._share(plan, rate, plan.flops_per_token),
            "hfu": self._share(plan, rate, hardware_flops_per_token(plan)),
        } | self._epoch(step, seconds, epoch)

    def _share(self, plan: Plan, rate: float | None, flops: float) -> float | None:
        """Share of the devices' peak rate; None where that is not known."""
        if rate is None or self._peak is None:
            return None
        return rate * flops / (self._peak * plan.world_size)

    def _epoch(self, step: int, seconds: float, epoch: float | None) -> dict[str, Any]:
        """The time of a pass, in the row of its last step, where all of it was seen."""
        if epoch is None:
            return {}
        ended = math.floor(epoch)
        if self._pass is None:  # a resumed run may be in the middle of a pass
            self._pass, self._seconds = (0, 0.0) if step == 1 else (ended, None)
        if self._seconds is not None:
            self._seconds += seconds
        if ended <= self._pass:
            return {}
        found, self._seconds, self._pass = self._seconds, 0.0, ended
        return {} if found is None else {"epoch_time": found}
