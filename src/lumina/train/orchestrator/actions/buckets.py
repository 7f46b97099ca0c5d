"""Actions on the size of the messages in which gradients are exchanged."""

from __future__ import annotations

from typing import ClassVar

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

TIMES = 4.0
"""One size by the next."""

LEAST, MOST = 0.5, 400.0
"""MiB between which the size moves."""


class _Buckets(Action):
    """Another size; what is computed stays the same.

    Attributes:
        factor: on the size.
    """

    level = 1
    control = "bucket_mb"
    measures = "seconds"
    factor: ClassVar[float]

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Four times as large or as small, within bounds.

        Nothing changes where all gradients fit into one bucket of the present size
        and of the other. Where one direction has helped, the other is not tried.
        """
        size = now(self.control)
        other = size * self.factor
        helped = (size - plan.bucket_mb) * (self.factor - 1) < 0
        gradients = 4 * plan.parameters / 2**20  # MiB
        if helped or min(size, other) >= gradients or not LEAST <= other <= MOST:
            return None
        return self.changed(
            finding,
            other,
            f"exchange gradients in pieces of {other:g} MiB, not {size:g}",
        )


@register_action
class LargerBuckets(_Buckets):
    """Fewer messages, where each takes long to arrive."""

    name = "larger_buckets"
    factor = TIMES


@register_action
class SmallerBuckets(_Buckets):
    """Messages that are under way sooner, beside the rest of the backward pass."""

    name = "smaller_buckets"
    factor = 1 / TIMES
