"""A second moment of Adam that forgets sooner than the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.optim.declared import chosen_optimizer
from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, number, register_check

SETTINGS = {"beta1", "beta2"}


@register_check
class ShortSecondMoment(Check):
    """A beta2 with which Adam need not converge.

    The mean of gradients is divided by the root of the mean of their squares. Where the
    squares are forgotten sooner than the gradients (beta2 below the square of beta1), a
    large gradient still moves the weights when the square that should hold it back has
    gone, so that single steps are many times the rate. Adam is known to converge with
    beta1 below the root of beta2 and a beta2 that is near 1, and to diverge with a
    small one (Zhang et al., 2022, arXiv:2208.09632).

    The settings alone say so, so the first step with a gradient is enough.
    """

    name = "short_second_moment"
    penalty = 15
    prior = 0.9
    rule = (
        "with an optimizer that reads `--beta1` and `--beta2`: a beta2 below the "
        "square of beta1"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        read = chosen_optimizer(plan.optimizer).settings.values()
        self.reads = set(read) >= SETTINGS

    def changed(self, name: str, value: Any) -> None:
        """Compare with another decay rate from now on."""
        if name == "beta2":
            self.memory["beta2"] = value

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare the decay rates, once the optimizer has made a step."""
        if not self.reads or number(row, "grad_norm") is None:
            return None
        beta1 = self.plan.beta1
        beta2 = float(self.memory.get("beta2", self.plan.beta2))
        if beta2 >= beta1 * beta1:
            return None
        return Alarm(
            f"beta2 is {beta2:g}, below {beta1 * beta1:.3g}, the square of beta1: the "
            "second moment forgets a large gradient sooner than the first",
            {"beta1": beta1, "beta2": beta2},
            confidence=self.sure((1 - beta2) / (1 - beta1 * beta1)),
        )
