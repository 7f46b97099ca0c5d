"""An epsilon of Adam beside which the gradients are lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.optim.declared import chosen_optimizer
from lumina.plan.count import trainable
from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, median, number, register_check

BEGIN, END = "group.", ".gradient_norm"


@register_check
class LargeEpsilon(Check):
    """Steps that follow the size of the gradient, because epsilon outweighs it.

    Adam divides the mean gradient by the root of its mean square, plus epsilon. Where
    that root is not large beside epsilon, a weight moves by gradient / epsilon in place
    of about the rate: the run learns as at a far lower rate, and the slower the smaller
    its gradients become (Wortsman et al., 2023, arXiv:2309.14322, section 3.4).

    It looks at the gradients of every role of tensors by themselves, after the clip,
    for the head alone hides in the norm of all of them what happens to the blocks.
    """

    name = "large_epsilon"
    penalty = 15
    prior = 0.8
    times, share, latest = 3.0, 0.5, 5
    rule = (
        "with an optimizer that reads `--eps`: by the medians of 5 steps, the root "
        "mean square of the clipped gradients below 3 times epsilon in roles of "
        "tensors that have half of the trained parameters"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.reads = "eps" in chosen_optimizer(plan.optimizer).settings.values()
        self._sizes: dict[str, int] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each role that train."""
        if self._sizes is None:
            self._sizes = {}
            for one in trainable(self.plan.spec, self.plan.freeze):
                self._sizes[one.role] = self._sizes.get(one.role, 0) + one.size
        return self._sizes

    def changed(self, name: str, value: Any) -> None:
        """Compare with another epsilon from now on."""
        if name == "eps":
            self.memory["eps"] = value

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Judge the medians of the last steps."""
        norm = number(row, "grad_norm")
        if not self.reads or norm is None:
            return None
        limit = self.plan.max_grad_norm
        clipped = min(limit / norm, 1.0) if limit and norm else 1.0
        held = self.memory.setdefault("roles", {})
        for key in row:
            found = number(row, key) if key.endswith(END) else None
            if found is not None and key.startswith(BEGIN):
                values = held.setdefault(key[len(BEGIN) : -len(END)], [])
                values.append(found * clipped)
                del values[: -self.latest]
        eps = float(self.memory.get("eps", self.plan.eps))
        squares, lost, known = 0.0, 0, 0
        for role, values in held.items():
            size = self.sizes.get(role, 0)
            if size and len(values) == self.latest:
                known += size
                if median(values) / math.sqrt(size) < self.times * eps:
                    lost += size
                    squares += median(values) ** 2
        if not known or lost < self.share * known:
            return None
        rms = math.sqrt(squares / lost)
        return Alarm(
            f"the gradients of {lost / known:.0%} of the parameters have a root mean "
            f"square of {rms:.3g}, and epsilon is {eps:.3g}: their steps are a "
            "fraction of the learning rate",
            {"root_mean_square": rms, "eps": eps, "share": lost / known},
            confidence=self.sure(self.times * eps / max(rms, 1e-30)),
        )
