"""The steps on gradients of a run, and their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lumina.config.leaves import nearest
from lumina.config.option_values import value_like
from lumina.errors import LuminaError
from lumina.optim.gradient_step import DeclaredStep, chosen_gradient_step
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config


def decide_gradient_steps(config: Config, decisions: Decisions) -> None:
    """Fix the steps in their order, and the options of each.

    Raises:
        LuminaError: E005 for a step, option or value that there is not, or a step that
            is named twice.
    """
    names = config.train.gradient_steps
    steps = [chosen_gradient_step(name) for name in names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise LuminaError(
            "E005",
            f"gradient_steps names {twice[0]} twice",
            "name each step once, in the order in which they act",
        )
    why = source_of(config, "gradient_steps")
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
    found = {
        step.name: {name: option.default for name, option in step.options.items()}
        for step in steps
    }
    options = {
        f"{step.name}.{name}": option
        for step in steps
        for name, option in step.options.items()
    }
    for text in given:
        key, equals, written = text.partition("=")
        where = f"gradient_step_options {text}"
        if not equals or key not in options:
            close = nearest(key, options)
            meant = f"did you mean {close!r}? " if close else ""
            raise LuminaError(
                "E005",
                f"{where}: no step of this run has such an option",
                f"{meant}write STEP.OPTION=VALUE; there are "
                f"{', '.join(options) or 'none'}",
            )
        value = value_like(options[key].default, written, where)
        if limits := options[key].limits(value):
            raise LuminaError(
                "E005", f"{where}: {value!r} is out of range", f"it is {limits}"
            )
        step, _, name = key.partition(".")
        found[step][name] = value
    return found
