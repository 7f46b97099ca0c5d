"""First weights of another spread, for a run that has hardly begun."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lumina.model.declared import declared
from lumina.model.spec import ModelSpec
from lumina.state.state import State

SPREAD = ("normal", "truncated", "orthogonal")
"""Rules of first values whose first argument is their spread."""


def factors(before: ModelSpec, after: ModelSpec) -> dict[str, float]:
    """Logical name -> by how much its first value is larger in the second shape.

    Args:
        before: of the weights.
        after: the same shape with another spread. What begins as ones, zeros or in
            another way of its own is left out.
    """
    found: dict[str, float] = {}
    wanted = declared(after)
    for name, one in declared(before).items():
        old, new = one.first, wanted[name].first
        if old.name in SPREAD and old.name == new.name and old != new:
            names = [piece.name for piece in one.pieces] or [name]
            found |= dict.fromkeys(names, new.arguments[0] / old.arguments[0])
    return found


def respread(state: State, spread: float) -> State:
    """The State with weights as if they had begun with another spread.

    Averages of weights are made larger alike. At step 0 that is exact, but for
    rounding: a seed draws the same numbers for every spread. Later, what was learned
    is scaled with them.

    Args:
        state: unchanged; what is scaled is copied.
        spread: `init_std` of the new State's spec.
    """
    before = ModelSpec.from_dict(state.spec)
    after = replace(before, init_std=spread)
    by = factors(before, after)

    def scaled(held: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: x * by[n] if n in by else x for n, x in held.items()}

    state.arrived()
    slots = {
        slot: scaled(held) if slot == "ema" else held
        for slot, held in state.optimizer.items()
    }
    return replace(
        state,
        tensors=scaled(state.tensors),
        optimizer=slots,
        spec=after.to_dict(),
    )
