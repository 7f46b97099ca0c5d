"""Controls of which process holds which experts: where memory and rows are, no result.

The State of all processes is put together, and each takes its experts out of it:
weights, masters, moments and averages move with them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lumina.errors import LuminaError
from lumina.plan.expert_parallel import check_size
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.state.state import State
from lumina.train.controls.change import Change
from lumina.train.controls.layout import Layout
from lumina.train.controls.table import register_control


class _OfExpertRanks(Layout):
    """A field of the Plan that says which process holds which experts."""

    def check_plan(self, plan: Plan) -> None:
        """Refuse a run in which every process holds all experts.

        Raises:
            LuminaError: E002.
        """
        if plan.expert_parallel_size == 1:
            raise LuminaError(
                "E002",
                f"{self.name} does nothing: every process holds all experts",
                "divide experts over processes with --expert-parallel-size",
            )


@register_control
class ExpertPlacementPolicy(_OfExpertRanks):
    """Where experts are: as many on each process, and each on one of a group.

    They are placed anew whenever the control is set: `balanced` by how often each was
    used in the step before, so that it is worth asking for again when usage has moved.
    """

    name = "expert_placement_policy"
    allowed = "it is balanced or memory_optimal"
    settings = ("expert_placement_policy",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is one of the two policies."""
        return value in ("balanced", "memory_optimal")

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with the policy, by which experts are placed as it is assembled."""
        return plan.replace(expert_placement_policy=value)


@register_control
class ExpertParallelSize(_OfExpertRanks):
    """Over how many processes the experts of a layer are divided.

    Twice as many processes hold half of the experts each. It stays above 1: whether
    experts are divided at all is decided when a run starts.
    """

    name = "expert_parallel_size"
    allowed = "it is a number of processes from 2"
    settings = ("expert_parallel_size",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a whole number from 2 on."""
        return type(value) is int and value >= 2

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with groups of that size.

        Raises:
            LuminaError: E002 where it divides the experts or the processes unevenly.
        """
        check_size(plan.spec, value, plan.world_size)
        return with_spec(plan.replace(expert_parallel_size=value), plan.spec)

    def as_left(
        self, plan: Plan, meta: State, last: Change | None, chosen: Collection[str]
    ) -> Plan:
        """The Plan with the groups of before; without, on too few processes for them.

        A checkpoint has whole experts, which any number of processes can divide.
        """
        fits = last is not None and plan.world_size % int(last.value) == 0
        if plan.expert_parallel_size == 1 or not fits:
            return plan
        return super().as_left(plan, meta, last, chosen)
