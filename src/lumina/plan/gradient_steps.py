"""The steps on gradients of a run, and their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.optim.gradient_step import DeclaredStep, chosen_gradient_step
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.declared_options import read_options

if TYPE_CHECKING:
    from lumina.config import Config

ROBUST = "robust_clip"
"""The step that an option of the same name adds behind the others."""


def decide_gradient_steps(config: Config, decisions: Decisions) -> None:
    """Fix the steps in their order, and the options of each.

    Raises:
        LuminaError: E005 for a step, option or value that there is not, or a step that
            is named twice.
    """
    names, why = config.train.gradient_steps, source_of(config, "gradient_steps")
    robust, adaptive = config.recovery.robust_clip, config.adaptive.adaptive == "on"
    if robust is None and adaptive:
        robust, said = True, "adaptive is on"
    else:
        said = source_of(config, "robust_clip")
    if robust and ROBUST not in names:
        names, why = (*names, ROBUST), said
    steps = [chosen_gradient_step(name) for name in names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise LuminaError(
            "E005",
            f"gradient_steps names {twice[0]} twice",
            "name each step once, in the order in which they act",
        )
    told = "; ".join(step.words for step in steps)
    decisions.decide("gradient_steps", names, f"{why}: {told}" if told else why)
    decisions.decide(
        "gradient_step_options",
        _options(config.train.gradient_step_options, steps),
        source_of(config, "gradient_step_options"),
    )


def _options(
    given: Sequence[str], steps: Sequence[DeclaredStep]
) -> dict[str, dict[str, Any]]:
    """Each step's options: the defaults, and over them what was given."""
    options = {
        f"{step.name}.{name}": option
        for step in steps
        for name, option in step.options.items()
    }
    values = read_options(
        given,
        options,
        "gradient_step_options",
        "the steps of this run",
        "STEP.OPTION=VALUE",
    )
    return {
        step.name: {name: values[f"{step.name}.{name}"] for name in step.options}
        for step in steps
    }
