"""A learning rate with which the run cannot come far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.plan.schedule import mean_rate
from lumina.train.health.check import Alarm, Check, number, register_check
from lumina.train.health.checks.high_rate import ABOUT_THE_RATE

SPREAD = 0.02
"""The usual spread of first weights. Wider ones do not count for more, since the norms
before each product take their size away."""


@register_check
class LowRate(Check):
    """A run whose steps are too small, or too few, to carry the weights anywhere.

    An optimizer of the kind of Adam moves a weight by about the rate r in a step. In a
    layer of width d that contributes r x d to an activation where it is coherent, and
    the first weights, of spread s, contribute s x sqrt(d) (Yang et al., 2022, "Tensor
    Programs V"). So a step is worth r x sqrt(d) / s of the first weights: about 0.3 to
    3 at the peak of tuned runs, from 124M parameters (6e-4 at a width of 768: 0.8) to
    175B (6e-5 at 12,288: 0.3). The reach of a run is the sum of that over its schedule.

    A sum that is small says that the run ends before it can have learned much: the rate
    is too low for so few steps, or a batch is so large that it leaves too few. A peak
    that is far below what any size is trained with says it of runs of any length. Where
    a step is worth much already, more of it does not make up for missing steps, so that
    what is asked for stays below 4 times the first weights.
    """

    name = "low_rate"
    penalty = 20
    prior = 0.9
    at, learned, untrained, shortest = 5, 0.7, 0.8, 40
    reach, wanted_reach = 60.0, 180.0
    least, wanted_peak = 0.05, 0.3
    most, most_peak = 10.0, 4.0
    rule = (
        "once, in the fifth step, of a model that is trained from nothing with an "
        "optimizer of the kind of Adam in 40 steps or more, while the loss is above "
        "70% of the first one: the learning rates of all steps together, times the "
        "root of the width, are less than 60 times the spread of the first weights "
        "(0.02 where that is wider), or that of the peak is less than a twentieth of it"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        own = plan.lr_transfer or plan.group_learning_rates
        self.applies = (
            plan.optimizer.startswith(ABOUT_THE_RATE)
            and plan.steps >= self.shortest
            and not own
            and not plan.phases
        )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Judge the schedule, once the first steps show a model without knowledge."""
        memory, loss = self.memory, number(row, "loss")
        if not self.applies or memory.get("over") or loss is None:
            return None
        first = memory.setdefault("first", loss)
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if seen < self.at:
            return None
        memory["over"] = True
        knows_nothing = self.untrained * math.log(self.plan.spec.vocab_size)
        if first < knows_nothing or loss < self.learned * first:
            return None
        return self._alarm(first, loss)

    def _alarm(self, first: float, loss: float) -> Alarm | None:
        """What is said where the reach or the peak is too small."""
        spec, plan = self.plan.spec, self.plan
        worth = math.sqrt(spec.hidden_size) / min(spec.init_std, SPREAD)
        peak = worth * plan.learning_rate
        total = worth * plan.steps * mean_rate(plan)
        excess = max(self.reach / total, self.least / peak)
        if excess <= 1:
            return None
        wanted = max(
            self.wanted_reach / total if total < self.reach else 1.0,
            self.wanted_peak / peak if peak < self.least else 1.0,
        )
        factor = max(min(wanted, self.most_peak / peak, self.most), 1.0)
        return Alarm(
            f"the learning rate is too low for a run of {plan.steps:,} steps: at its "
            f"peak of {plan.learning_rate:g} a step counts {peak:.2g} times as much as "
            f"the first weights, and all steps together {total:.3g} times; "
            f"{self.least:g} and {self.reach:g} are the least with which a run comes "
            f"far (the loss is {loss:.4f} after {first:.4f})",
            {"peak": peak, "reach": total, "factor": factor},
            confidence=self.sure(excess),
        )
