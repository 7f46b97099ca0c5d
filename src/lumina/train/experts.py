"""Controls of routed layers, applied to a running job at a step boundary."""

from __future__ import annotations

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.make import with_spec
from lumina.plan.plan import Plan
from lumina.state.state import State
from lumina.state.surgery import add_expert, check_prunable, prune_expert
from lumina.train.controls import ROUTING, Change, routed


def outgrows(program: Program, change: Change) -> bool:
    """Whether a capacity asks for more places than the Program was assembled with."""
    if change.name != "capacity_factor" or program.plan.spec.moe is None:
        return False
    built = program.network.spec.moe
    assert built is not None
    _check_capacity(program.plan)
    return bool(change.value > built.capacity_factor)


def set_routing(program: Program, change: Change) -> None:
    """Write a scalar that routed layers read; the old value goes in the change.

    Raises:
        LuminaError: E002 without experts, or for a capacity where none is dropped.
    """
    moe = routed(program.plan)
    if change.name == "capacity_factor":
        _check_capacity(program.plan)
    field = ROUTING[change.name]
    change.old = getattr(moe, field)
    program.set_routing(field, float(change.value))


def check_experts(plan: Plan, change: Change) -> None:
    """Refuse an edit that cannot be done, before anything is taken apart."""
    moe = routed(plan)
    change.old = moe.num_experts
    if change.name == "prune_expert":
        values = {
            "num_experts": moe.num_experts, "top_k": moe.top_k, "layers": moe.layers,
        }  # fmt: skip
        check_prunable(values, _chosen(change))


def edited_experts(plan: Plan, state: State, change: Change) -> tuple[Plan, State]:
    """The Plan and the State with an expert more or less in every routed layer."""
    if change.name == "add_expert":
        state = add_expert(state, **change.value, seed=plan.seed)
    else:
        state = prune_expert(state, _chosen(change))
    return with_spec(plan, ModelSpec.from_dict(state.spec)), state


def _chosen(change: Change) -> dict[int, int]:
    return {int(layer): expert for layer, expert in change.value.items()}


def _check_capacity(plan: Plan) -> None:
    if routed(plan).dispatch != "capacity":
        raise LuminaError(
            "E002",
            "capacity_factor does nothing: moe_dispatch is dropless",
            "train with --moe-dispatch capacity to bound what an expert takes",
        )
