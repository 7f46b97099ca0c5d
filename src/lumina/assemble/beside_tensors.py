"""What a State says of a Program beside its tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lumina.assemble.gradient_errors import NAME as ERRORS
from lumina.assemble.optimizers import numbers
from lumina.assemble.program import Program
from lumina.state.state import State


def of_remains(program: Program, **changed: Any) -> State:
    """The State that a closed Program has left, laid out by its present Plan.

    Args:
        program: that was closed, with `remains`.
        changed: parts of the State that were changed since then.
    """
    assert program.remains is not None
    extra = program.remains.extra | changed.pop("extra", {})
    plan = program.plan.to_dict()
    return replace(program.remains, extra=extra, plan=plan, **changed)


def scalars(program: Program) -> dict[str, Any]:
    """What the optimizer and the live controls hold beside tensors."""
    values: dict[str, Any] = {
        **numbers(program.optimizer, program.plan.optimizer),
        "loss_scale": program.loss_scale.state(),
        "live": {
            "max_grad_norm": program.live.max_grad_norm.item(),
            "weight_decay": program.live.weight_decay,
            "learning_rate_scale": program.live.learning_rate_scale,
            **program.live.of_kinds,
        },
    }
    for bend in ("rewarm", "glide"):
        if (held := getattr(program.live, bend)) is not None:
            values["live"][bend] = list(held)
    for name, memory in program.memories.items():
        values[name] = memory.state()
    if program.gradient_steps:
        values["gradient_steps"] = {
            name: {key: value.tolist() for key, value in step.scalars().items()}
            for name, step in zip(
                program.plan.gradient_steps, program.gradient_steps, strict=True
            )
        }
    if program.way.low_rank is not None and program.way.low_rank.begun:
        values[ERRORS] = program.mesh.tokens.size
    if program.average is not None:
        values["average_updates"] = int(program.average.updates.item())
        if program.average.default:
            values["averages_by_default"] = True
    return values
