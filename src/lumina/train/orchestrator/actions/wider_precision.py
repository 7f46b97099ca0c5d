"""The actions of computing with more bits, or in a wider range."""

from __future__ import annotations

from typing import ClassVar

from lumina.features.precisions import PRECISIONS
from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

ORDER = ("float16", "float8", "bfloat16", "float32")
"""What a run computes in, from what numbers leave most easily."""


class _Wider(Action):
    """Another type of products and activations.

    Steps become slower, and activations of float32 take twice the memory.

    Attributes:
        wanted: the type.
        value: of `--precision`.
    """

    level = 2
    control = "precision"
    wanted: ClassVar[str]
    value: ClassVar[str]

    def possible(self, plan: Plan) -> str:
        """Where the run computes in something narrower."""
        if not self._is_wider(plan.fp8, plan.compute_dtype):
            return f"the run computes in {plan.compute_dtype}"
        return super().possible(plan)

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The type, where the trouble may be one of precision.

        Gradients as small as `--eps` are lost in the optimizer's float32 arithmetic,
        whatever the products are computed in.
        """
        present = PRECISIONS[now(self.control)]
        if not self._is_wider(present.fp8, present.compute):
            return None
        if finding.anomaly == "underflow" and "share" not in finding.evidence:
            return None
        return self.changed(finding, self.value, f"compute in {self.wanted}")

    def _is_wider(self, fp8: str, compute: str) -> bool:
        """Whether what it wants is wider than what a run computes in."""
        present = "float8" if fp8 else compute
        return ORDER.index(self.wanted) > ORDER.index(present)


@register_action
class ComputeInBfloat16(_Wider):
    """From float8 and float16 to bfloat16, which has the range of float32."""

    name = "compute_in_bf16"
    wanted, value = "bfloat16", "bf16"


@register_action
class ComputeInFloat32(_Wider):
    """From anything narrower to float32."""

    name = "compute_in_fp32"
    wanted, value = "float32", "fp32"
