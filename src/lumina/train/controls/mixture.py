"""The control of a mixture: the shares of its sources."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


@register_control
class SourceWeights(Control):
    """The share of the rows that each source gives, from the next step on.

    The value names every source; numbers are divided by their sum. The order of the
    rows stays a function of the seed, the content and the position, for the position
    holds the shares that were set.
    """

    name = "source_weights"
    allowed = "a number from 0 for each source by its name, and not all of them 0"
    settings = (
        "source_weights",
        "source_temperature",
        "source_schedule",
        "base_finetuning_ratio",
    )

    def makes_sense(self, value: Any) -> bool:
        """Whether it maps names to weights."""
        if not isinstance(value, dict) or not value:
            return False
        numbers = list(value.values())
        if not all(is_number(number) and number >= 0 for number in numbers):
            return False
        return sum(numbers) > 0 and all(isinstance(name, str) for name in value)

    def check_plan(self, plan: Plan) -> None:
        """Refuse a run without several sources."""
        if len(plan.sources) < 2:
            raise LuminaError(
                "E002", "this run has fewer than two sources", "train with --sources"
            )

    def now(self, program: Program, step: int) -> dict[str, float] | None:
        """The shares that were set; None where they are those of the settings."""
        return program.live.source_weights

    def set(self, program: Program, value: Any) -> None:
        """Take rows in these shares; None takes them as the settings say.

        Raises:
            LuminaError: E005 for names that are not those of the sources.
        """
        names = program.plan.sources
        if value is not None and set(value) != set(names):
            raise LuminaError(
                "E005",
                f"source_weights names {', '.join(value)}",
                f"give each of the sources {', '.join(names)} one weight",
            )
        program.live.source_weights = value
