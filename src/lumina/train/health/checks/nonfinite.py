"""Steps without a finite gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, register_check


@register_check
class NonFinite(Check):
    """Steps that were skipped because a gradient, or the loss, was not finite.

    In half precision a step is skipped now and then as the loss scale is found, so
    that two more are needed there.
    """

    name = "nonfinite"
    penalty = 30
    rule = (
        "a step without a finite gradient; with float16, the third in a row. The "
        "confidence is 1 - 1 / 2^n after n of them in a row"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.usual = 2 if plan.compute_dtype == "float16" else 0

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Count the steps in a row that were skipped."""
        skipped = int(row.get("skipped") or 0)
        # What an earlier run has skipped is not counted again.
        before = 0 if row["step"] == 1 else skipped
        more = skipped > self.memory.get("skipped", before)
        count = self.memory.get("in_a_row", 0) + 1 if more else 0
        self.memory |= {"skipped": skipped, "in_a_row": count}
        if count <= self.usual:
            return None
        steps = "one step" if count == 1 else f"{count} steps in a row"
        return Alarm(
            f"the gradient was not finite in {steps}",
            {"steps": count},
            "warning" if count < 3 else "error",
            1 - 0.5 ** (count - self.usual),
        )
