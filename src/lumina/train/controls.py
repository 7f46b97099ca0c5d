"""Changes to a running job: requested, applied at a step boundary, journalled."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from typing import Any

from lumina.errors import LuminaError
from lumina.model.spec import MoeSpec
from lumina.plan.make import with_spec
from lumina.plan.plan import Plan

ROUTING = {
    "capacity_factor": "capacity_factor",
    "routing_temperature": "temperature",
    "router_jitter_noise": "jitter",
    "expert_dropout": "expert_dropout",
}
"""Controls of routed layers, and the field of `MoeSpec` each changes."""

LIVE = ("learning_rate", "max_grad_norm", "weight_decay", "mod_capacity", *ROUTING)
"""Controls that are read by the step: no reassembly."""

EXPERTS = ("add_expert", "prune_expert")
"""Controls that edit the State: capture, edit, assemble again. Not to be undone."""

LAYOUT = ("micro_batch_size", "gradient_checkpointing")
"""Controls that change the Plan: capture, edit, assemble again."""

REASSEMBLE = (*LAYOUT, *EXPERTS)
"""Controls after which another Program trains."""


_SENSE = {
    "learning_rate": "a rate is a number above 0, at most 1",
    "max_grad_norm": "a norm is a number from 0; 0 clips nothing",
    "weight_decay": "a decay is a number from 0",
    "micro_batch_size": "sequences a forward are a whole number from 1",
    "gradient_checkpointing": "it is none, full or selective",
    "capacity_factor": "a factor is a number above 0",
    "routing_temperature": "a temperature is a number above 0",
    "router_jitter_noise": "noise is a number from 0, below 1",
    "expert_dropout": "a chance is a number from 0, below 1",
    "mod_capacity": "a share is a number above 0, at most 1",
    "add_expert": "it is a way, busiest or mean, and the spread of the noise",
    "prune_expert": "it names experts by layer, or none",
}


@dataclass
class Change:
    """One requested change and what became of it.

    Attributes:
        id: unique within the run.
        name: one of `LIVE` or `REASSEMBLE`.
        value: what was asked for.
        reason: why, in words.
        source: who asked: user, or orchestrator (a rule of Lumina's own).
        step: completed steps when it was applied.
        old: the value before.
        outcome: "requested", "applied", "refused: ..." or "undone".
        undoes: the id of the change that this one takes back.
        old_scale: of a learning rate, its factor on the schedule before; an undo goes
            back to that, since the schedule has moved on.
        seconds: what capturing, editing and assembling took, where that was needed.
    """

    id: int
    name: str
    value: Any
    reason: str
    source: str
    step: int | None = None
    old: Any = None
    outcome: str = "requested"
    undoes: int | None = None
    old_scale: float | None = None
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Controls:
    """The one way back into a running loop.

    Requests may come from any thread; they take effect at the next step boundary that
    all ranks agree on.

    Args:
        journal: the changes of the run so far, as a State keeps them.
    """

    def __init__(self, journal: list[dict[str, Any]] | None = None) -> None:
        self.changes = [Change(**entry) for entry in journal or []]
        self._pending: list[Change] = []
        self._lock = threading.Lock()
        self._next = max((c.id for c in self.changes), default=0) + 1

    def request(self, name: str, value: Any, reason: str, source: str = "user") -> int:
        """Ask for a change.

        Raises:
            LuminaError: E004 for a control there is not, E005 for a value without
                sense.
        """
        _check(name, value)
        return self._ask(name, value, reason, source)

    def undo(
        self, change_id: int, reason: str = "undone on request", source: str = "user"
    ) -> int:
        """Ask for the value from before a change.

        Raises:
            LuminaError: E005 when no applied change has that id.
        """
        change = self.applied(change_id)
        if change is None:
            raise LuminaError(
                "E005",
                f"there is no applied change {change_id} to undo",
                "applied changes are in events.jsonl and in Controls.changes",
            )
        if change.name in EXPERTS:
            raise LuminaError(
                "E005",
                f"{change.name} cannot be undone: the other experts have learned since",
                "go back to a checkpoint from before it",
            )
        return self._ask(change.name, change.old, reason, source, undoes=change_id)

    def applied(self, change_id: int | None) -> Change | None:
        """The change with that id, if it holds."""
        for change in self.changes:
            if change.id == change_id and change.outcome == "applied":
                return change
        return None

    def _ask(
        self,
        name: str,
        value: Any,
        reason: str,
        source: str,
        undoes: int | None = None,
    ) -> int:
        with self._lock:
            change = Change(self._next, name, value, reason, source, undoes=undoes)
            self._next += 1
            self._pending.append(change)
        return change.id

    def next_id(self) -> int:
        """An id for a change that nobody requested."""
        with self._lock:
            self._next += 1
            return self._next - 1

    @property
    def waiting(self) -> bool:
        """Whether anything was requested and not yet taken."""
        return bool(self._pending)

    def take(self) -> list[dict[str, Any]]:
        """Hand the waiting requests to the loop."""
        with self._lock:
            taken, self._pending = self._pending, []
        return [change.to_dict() for change in taken]

    def record(self, change: Change) -> None:
        """Enter a finished change in the journal."""
        undone = self.applied(change.undoes)
        if undone is not None and change.outcome == "applied":
            undone.outcome = "undone"
        self.changes.append(change)
        self._next = max(self._next, change.id + 1)

    def journal(self) -> list[dict[str, Any]]:
        """The journal as plain JSON values, for the State."""
        return [change.to_dict() for change in self.changes]


def edited(plan: Plan, change: Change) -> Plan:
    """The Plan with a reassembling control's value; the old one goes in the change.

    Raises:
        LuminaError: E002 when the ranks cannot share the global batch like that.
    """
    if change.name == "capacity_factor":
        moe = routed(plan)
        change.old = moe.capacity_factor
        changed = replace(moe, capacity_factor=float(change.value))
        return with_spec(plan, replace(plan.spec, moe=changed))
    if change.name == "gradient_checkpointing":
        change.old = plan.gradient_checkpointing
        return plan.replace(gradient_checkpointing=change.value)
    change.old = plan.micro_batch_size
    per_forward = change.value * plan.world_size
    if plan.global_batch_size % per_forward:
        raise LuminaError(
            "E002",
            f"the global batch of {plan.global_batch_size} is not a multiple of "
            f"{change.value} sequences on {plan.world_size} devices",
            "choose a divisor of the global batch per device",
        )
    return plan.replace(
        micro_batch_size=change.value,
        grad_accum=plan.global_batch_size // per_forward,
    )


def routed(plan: Plan) -> MoeSpec:
    """The routed layers of a Plan.

    Raises:
        LuminaError: E002 when there are none.
    """
    if plan.spec.moe is None:
        raise LuminaError("E002", "this model has no experts", "train with --use-moe")
    return plan.spec.moe


def _check(name: str, value: Any) -> None:
    """Refuse what no run could do."""
    if name not in LIVE + REASSEMBLE:
        raise LuminaError(
            "E004",
            f"there is no control named {name}",
            f"controls are {', '.join(LIVE + REASSEMBLE)}",
        )
    if isinstance(value, bool):
        good = False
    elif name == "add_expert":
        good = _is_recipe(value)
    elif name == "prune_expert":
        good = _is_choice(value)
    elif name in ("capacity_factor", "routing_temperature"):
        good = isinstance(value, int | float) and 0 < value < float("inf")
    elif name in ROUTING:
        good = isinstance(value, int | float) and 0 <= value < 1
    elif name == "gradient_checkpointing":
        good = value in ("none", "full", "selective")
    elif name == "micro_batch_size":
        good = isinstance(value, int) and value >= 1
    elif name in ("learning_rate", "mod_capacity"):
        good = isinstance(value, int | float) and 0 < value <= 1
    else:
        good = isinstance(value, int | float) and 0 <= value < float("inf")
    if not good:
        raise LuminaError("E005", f"{value!r} makes no sense for {name}", _SENSE[name])


def _is_recipe(value: Any) -> bool:
    """Whether it says how to make an expert."""
    if not isinstance(value, dict) or value.keys() != {"how", "noise"}:
        return False
    noise = value["noise"]
    good = isinstance(noise, int | float) and 0 <= noise < float("inf")
    return value["how"] in ("busiest", "mean") and good


def _is_choice(value: Any) -> bool:
    """Whether it names experts: layer -> expert, as text, as JSON has it."""
    return isinstance(value, dict) and all(
        isinstance(layer, str) and layer.isdigit() and isinstance(expert, int)
        for layer, expert in value.items()
    )
