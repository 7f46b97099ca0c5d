"""The most that the present device can do: stated for a card, measured for a CPU."""

from __future__ import annotations

from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.plan.product_rate import product_rate
from lumina.plan.speeds import arithmetic_of


def peak_here(plan: Plan, machine: Environment) -> float | None:
    """Operations a second of one process's device; None where it is not known.

    On the CPU the processes of a run share the rate of the products that are measured.

    Args:
        plan: what the device computes in.
        machine: the present one.
    """
    if machine.device == "cpu":
        rate = product_rate(plan.compute_dtype, machine.device_name)
        return rate / max(machine.local_processes, plan.world_size)
    return machine.peak_flops.get(arithmetic_of(plan))
