"""`lumina plan --trace` and `--measure`: a step's memory beside its estimate."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.plan.environment import Environment
    from lumina.plan.plan import Plan
    from lumina.train.planned_memory.measured import Measured
    from lumina.train.planned_memory.trace import Traced


class Looked:
    """What was found of the memory of a Plan's step.

    Attributes:
        plan: whose step.
        traced: followed without memory; None: not asked for.
        measured: on the device; None: not asked for, and not known from before.
    """

    def __init__(
        self, plan: Plan, traced: Traced | None, measured: Measured | None
    ) -> None:
        self.plan, self.traced, self.measured = plan, traced, measured

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        import dataclasses

        found: dict[str, Any] = {}
        if self.traced is not None:
            found["traced"] = self.traced.facts()
        if self.measured is not None:
            found["measured"] = dataclasses.asdict(self.measured)
        return found

    def text(self) -> str:
        """As people read it; "" where there is nothing."""
        if self.traced is None and self.measured is None:
            return ""
        parts = ["A step's memory\n" + self._table()]
        traced = self.traced
        if traced is not None and traced.problem:
            parts.append(
                f"  not traced, because {traced.problem}; the figures are those of the "
                "analytic estimate"
            )
        if traced is not None and not traced.problem:
            parts += [f"  assumed: {words}" for words in traced.assumed]
            parts.append(self._standing(traced))
        return "\n".join(parts)

    def _table(self) -> str:
        from lumina.cli.text import table
        from lumina.train.planned_memory.steps import STAGES

        memory, traced, measured = self.plan.memory, self.traced, self.measured
        rows = [
            ["  estimated", "the whole step", byte_size(memory["expected"]), ""],
            ["  bound", "the whole step", byte_size(memory["bound"]), ""],
        ]
        if traced is not None and not traced.problem:
            for stage in STAGES:
                sizes = traced.allocated[stage], traced.reserved[stage]
                rows.append(["  traced", stage, *map(byte_size, sizes)])
        if measured is not None:
            words = "  measured before" if measured.before else "  measured"
            if measured.resident:
                rows.append([words, "the process", byte_size(measured.resident), ""])
            for stage, size in measured.allocated.items():
                sizes = size, measured.reserved[stage]
                rows.append([words, stage, *map(byte_size, sizes)])
        head = ("  figure", "stage", "allocated", "reserved")
        return table(head, rows, right="allocated reserved")

    def _standing(self, traced: Traced) -> str:
        """What is there at the peak of the stage with the highest one."""
        from lumina.cli.text import table

        stage = max(traced.standing, key=lambda one: traced.allocated[one])
        rows = [
            [f"  {name}", byte_size(size)]
            for name, size in traced.standing[stage].items()
        ]
        return f"At the peak, in {stage}\n" + table(
            ("  what", "bytes"), rows, right="bytes"
        )


def look(
    args: argparse.Namespace, plan: Plan, machine: Environment, plugins: tuple[str, ...]
) -> Looked:
    """Trace or measure as the options say.

    Args:
        args: of `lumina plan`.
        plan: to look at.
        machine: that it is for.
        plugins: of the settings.

    Raises:
        LuminaError: E002 for `--measure` on hardware that is only described; see
            `lumina.train.planned_memory.measured.measure`.
    """
    here = args.hardware_profile is None
    if args.measure and not here:
        raise LuminaError(
            "E002",
            "--measure takes steps on a device that is present, and "
            "--hardware-profile describes one",
            "leave one of them out; --trace needs no device",
        )
    if not (args.trace or args.measure):
        return Looked(plan, None, None)
    from lumina.train.planned_memory import measured
    from lumina.train.planned_memory.trace import trace

    traced = None
    if args.trace:
        traced = trace(plan, capability=machine.capability or (9, 0))
    found = None
    if args.measure:
        found = measured.measure(plan, machine, plugins)
    elif here:
        found = measured.known(plan, machine)
    return Looked(plan, traced, found)
