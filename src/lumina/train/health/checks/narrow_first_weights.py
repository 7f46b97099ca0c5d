"""First weights that are so small that a run begins as if it had none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, number, register_check
from lumina.train.health.checks.high_rate import ABOUT_THE_RATE

USUAL = 0.02
"""The spread that language models begin with (Radford et al., 2019)."""

UNTRAINED = 0.8
"""Share of the loss of a model that knows nothing from which one is untrained."""


@register_check
class NarrowFirstWeights(Check):
    """A spread of first weights beside which the first steps are everything.

    In a layer of width d weights of spread s contribute s x sqrt(d) to an activation:
    0.1 to 0.6 in most models, from widths of 64 to those of thousands. An optimizer of
    the kind of Adam changes each weight by about the rate in a step. Where s is far
    smaller, the first few batches write over what told the rows of a matrix apart, and
    all of it learns the same at first.

    The Plan alone says so, so the first step with a gradient is enough.
    """

    name = "narrow_first_weights"
    penalty = 10
    prior = 0.85
    least = 0.05
    rule = (
        "once, in the first step with a gradient, of a model that is trained from "
        "nothing with an optimizer of the kind of Adam: a spread of the first weights "
        "(`--init-std`) below 0.02 and, times the root of the width, below 0.05"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.applies = (
            plan.optimizer.startswith(ABOUT_THE_RATE)
            and not plan.lr_transfer
            and not plan.freeze
            and not plan.spec.adapters
        )

    def changed(self, name: str, value: Any) -> None:
        """Nothing is to be said of weights that were scaled."""
        if name == "init_std":
            self.memory["over"] = True

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Judge the spread, once the first loss shows a model without knowledge."""
        loss, memory = number(row, "loss"), self.memory
        if memory.get("over") or loss is None or number(row, "grad_norm") is None:
            return None
        memory["over"] = True
        spec = self.plan.spec
        weight = spec.init_std * math.sqrt(spec.hidden_size)
        wide = spec.init_std >= USUAL or weight >= self.least
        if not self.applies or wide or loss < UNTRAINED * math.log(spec.vocab_size):
            return None
        return Alarm(
            f"the first weights have a spread of {spec.init_std:g}, which a width of "
            f"{spec.hidden_size:,} makes {weight:.2g} of an activation: the first "
            "steps write over them",
            {"spread": spec.init_std, "weight": weight},
            confidence=self.sure(self.least / weight),
        )
