"""Controls of routed layers: scalars of the routing, and experts more and fewer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, ClassVar

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.model.moe import routed_layers
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.state.expert_surgery import add_expert, check_prunable, prune_expert
from lumina.state.state import State
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


def routed(plan: Plan) -> MoeSpec:
    """The routed layers of a Plan.

    Raises:
        LuminaError: E002 when there are none.
    """
    if plan.spec.moe is None:
        raise LuminaError("E002", "this model has no experts", "train with --use-moe")
    return plan.spec.moe


class _Routed(Control):
    """A control that needs routed layers."""

    kept_in_state = True  # as part of the model's shape

    def check_plan(self, plan: Plan) -> None:
        """Refuse a model without experts."""
        routed(plan)


class _Routing(_Routed):
    """A scalar that all routed layers read, and that the model's shape records.

    Attributes:
        field: its field of `MoeSpec`.
    """

    field: ClassVar[str]

    def now(self, program: Program, step: int) -> float:
        """The shape's value."""
        value: float = getattr(routed(program.plan), self.field)
        return value

    def set(self, program: Program, value: Any) -> None:
        """Write the scalar in every routed layer, and in the Plan's shape."""
        for layer in routed_layers(program.network):
            self.write(layer, float(value))
        moe = self._with(program.plan, value)
        program.replan(program.plan.replace(spec=replace(program.plan.spec, moe=moe)))

    def write(self, layer: Any, value: float) -> None:
        """Write the scalar in one routed layer."""
        getattr(layer, self.field).fill_(value)

    def _with(self, plan: Plan, value: Any) -> MoeSpec:
        """The Plan's routed layers with the value."""
        changed: dict[str, Any] = {self.field: float(value)}
        return replace(routed(plan), **changed)

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan of a model that is built with the value."""
        moe = self._with(plan, value)
        if moe == plan.spec.moe:
            return plan
        return with_spec(plan, replace(plan.spec, moe=moe))

    def as_left(
        self, plan: Plan, meta: State, last: Change | None, chosen: Collection[str]
    ) -> Plan:
        """The Plan with the checkpoint's value, unless its option was given anew."""
        held = meta.spec.get("moe")
        if held is None or plan.spec.moe is None or self.name in chosen:
            return plan
        return self.edit(plan, held[self.field]) if self.field in held else plan


@register_control
class CapacityFactor(_Routing):
    """The places of each expert over the even share.

    Up to the factor that the Program was assembled with, a share of the places is left
    empty; beyond it buffers grow, so the Program is assembled again.
    """

    name = "capacity_factor"
    field = "capacity_factor"
    allowed = "a factor is a number above 0"

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a number above 0."""
        return is_number(value) and value > 0

    def check_plan(self, plan: Plan) -> None:
        """Refuse a model without experts, and one whose experts take every token."""
        if routed(plan).dispatch != "capacity":
            raise LuminaError(
                "E002",
                "capacity_factor does nothing: moe_dispatch is dropless",
                "train with --moe-dispatch capacity to bound what an expert takes",
            )

    def fits(self, program: Program, value: Any) -> bool:
        """Whether there are as many places."""
        built = program.network.spec.moe
        assert built is not None
        return bool(value <= built.capacity_factor)

    def write(self, layer: Any, value: float) -> None:
        """Use a share of the places that the layer was built with."""
        layer.capacity_share.fill_(value / layer.spec.capacity_factor)


@register_control
class RoutingTemperature(_Routing):
    """What the router's logits are divided by."""

    name = "routing_temperature"
    field = "temperature"
    allowed = "a temperature is a number above 0"

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a number above 0."""
        return is_number(value) and value > 0


class _Chance(_Routing):
    """A number from 0, below 1."""

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a number from 0, below 1."""
        return is_number(value) and 0 <= value < 1


@register_control
class RouterJitterNoise(_Chance):
    """The relative noise on the router's logits in training."""

    name = "router_jitter_noise"
    field = "jitter"
    allowed = "noise is a number from 0, below 1"


@register_control
class ExpertDropout(_Chance):
    """The chance that an expert is hidden from a token."""

    name = "expert_dropout"
    field = "expert_dropout"
    allowed = "a chance is a number from 0, below 1"


class _Experts(_Routed):
    """A change of the number of experts, which edits the State."""

    final = "the other experts have learned since"

    def check_plan(self, plan: Plan) -> None:
        """Refuse a model without experts, and one with a copy that has as many."""
        super().check_plan(plan)
        if plan.spec.adapters:
            raise LuminaError(
                "E002",
                "the run trains adapters, and its base has as many experts as it has",
                "change the experts of the base, and train adapters on the result",
            )
        if plan.keeps == "outputs":
            raise LuminaError(
                "E002",
                "the run keeps a frozen copy of the base model (preservation_method "
                "outputs), which has the experts of the model that trains",
                "use --preservation-method weights",
            )

    def now(self, program: Program, step: int) -> int:
        """The number of experts of each routed layer."""
        return routed(program.plan).num_experts

    def fits(self, program: Program, value: Any) -> bool:
        """Never: every routed layer changes its shape."""
        return False

    def operate(self, plan: Plan, state: State, value: Any) -> tuple[Plan, State]:
        """The Plan and the State with another number of experts."""
        state = self.operated(plan, state, value)
        return with_spec(plan, ModelSpec.from_dict(state.spec)), state

    def operated(self, plan: Plan, state: State, value: Any) -> State:
        """The State with another number of experts."""
        raise NotImplementedError

    def as_left(
        self, plan: Plan, meta: State, last: Change | None, chosen: Collection[str]
    ) -> Plan:
        """The Plan with as many experts as the checkpoint has."""
        held, moe = meta.spec.get("moe"), plan.spec.moe
        if held is None or moe is None or held["num_experts"] == moe.num_experts:
            return plan
        moe = replace(moe, num_experts=held["num_experts"])
        return with_spec(plan, replace(plan.spec, moe=moe))


@register_control
class AddExpert(_Experts):
    """One more expert in every routed layer, made from its existing ones."""

    name = "add_expert"
    allowed = "it is a way, busiest or mean, and the spread of the noise"

    def makes_sense(self, value: Any) -> bool:
        """Whether it says how to make an expert."""
        if not isinstance(value, dict) or value.keys() != {"how", "noise"}:
            return False
        noise = value["noise"]
        return value["how"] in ("busiest", "mean") and is_number(noise) and noise >= 0

    def operated(self, plan: Plan, state: State, value: Any) -> State:
        """The State with one expert more."""
        return add_expert(state, **value, seed=plan.seed)


@register_control
class PruneExpert(_Experts):
    """One expert fewer in every routed layer."""

    name = "prune_expert"
    allowed = "it names experts by layer, or none"

    def makes_sense(self, value: Any) -> bool:
        """Whether it maps layers to experts, both as JSON has them."""
        return isinstance(value, dict) and all(
            isinstance(layer, str) and layer.isdigit() and isinstance(expert, int)
            for layer, expert in value.items()
        )

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The same Plan, once it is known that the experts can go.

        Raises:
            LuminaError: E002 or E005 when they cannot.
        """
        moe = routed(plan)
        shape = {
            "num_experts": moe.num_experts, "top_k": moe.top_k, "layers": moe.layers,
        }  # fmt: skip
        check_prunable(shape, _by_number(value))
        return plan

    def operated(self, plan: Plan, state: State, value: Any) -> State:
        """The State with one expert fewer."""
        return prune_expert(state, _by_number(value))


def _by_number(value: dict[str, int]) -> dict[int, int]:
    """Layer -> expert, with the layers as numbers."""
    return {int(layer): expert for layer, expert in value.items()}
