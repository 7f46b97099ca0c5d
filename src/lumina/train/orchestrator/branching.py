"""What would come of a run if nothing were changed, measured before it is changed.

A decision waits: a snapshot is taken, the run goes on without the change for as long as
the change will be measured, and then goes back to the snapshot and is changed there. So
the losses with the change and without it are of the same rows, after the same weights.
The steps in between are computed twice; their rows stay in the run's folder `undone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from lumina.plan.plan import Plan
from lumina.train.controls import Change
from lumina.train.orchestrator.actions import ACTIONS
from lumina.train.orchestrator.decision import Decision
from lumina.train.orchestrator.limits import Limits
from lumina.train.rules.rule import Proposal

TAKE, GO_BACK = "take_snapshot", "end_branch"
"""What is asked of the arbiter for a branch, as names of actions."""

SNAPSHOT, ROLLBACK = "snapshot", "rollback"
"""The controls of the two."""

LATE = 4
"""Steps that the change comes after the snapshot, at most: it is asked for again there,
and takes effect a step later."""

NEVER = (ROLLBACK, "stop_run")
"""Controls whose changes are not measured: they go back by themselves, or end the
run."""

Memory = dict[str, Any]
"""Of the policy; its "branch" is a `Branch` as plain values, or None."""


@dataclass
class Branch:
    """A decision that waits until the run has been seen without it.

    Attributes:
        decision: as `Decision.to_dict` gives it.
        proposal: what it asks of the arbiter, as `Proposal.to_dict` gives it.
        stage: "snapshot" until there is one, "without" while the run goes on
            unchanged, "back" when it is about to go back, "with" when the change is
            due.
        until: the last step of the run without the change.
        losses: (step, loss) without the change.
    """

    decision: dict[str, Any]
    proposal: dict[str, Any]
    stage: Literal["snapshot", "without", "back", "with"] = "snapshot"
    until: int = 0
    losses: list[list[float]] = field(default_factory=list)

    def next(self, step: int) -> tuple[Decision, Proposal] | None:
        """What is asked of the arbiter after a step; None: the run goes on."""
        made = Decision(**self.decision)
        if self.stage == "with":
            return replace(made, step=step), Proposal(**self.proposal)
        if self.stage == "snapshot":
            why = f"to see the run without {made.action} first: {made.reason}"
            value: Any = "marked"
            action, control = TAKE, SNAPSHOT
        elif self.stage == "without" and step >= self.until:
            why = f"{len(self.losses)} steps without {made.action} were measured"
            value = {"steps": step + 1, "skip_data": False, "marked": True}
            action, control = GO_BACK, ROLLBACK
        else:
            return None
        asked = replace(made, step=step, action=action, control=control)
        return asked, Proposal(control, value, why, confidence=1.0)


def steps_of(limits: Limits) -> int:
    """Steps of a branch: until the last one that is measured with the change."""
    return LATE + limits.cooldown_steps + max(limits.cooldown_steps, 3)


def begin(memory: Memory, decision: Decision, proposal: Proposal) -> Proposal | None:
    """Let a decision wait; what is asked of the arbiter first."""
    branch = Branch(decision.to_dict(), proposal.to_dict())
    memory["branch"] = asdict(branch)
    return ask(memory, decision.step)


def see(memory: Memory, step: int, loss: float | None) -> None:
    """Take in the loss of a step without the change, if there is a branch."""
    held = memory["branch"]
    if held is not None and held["stage"] == "without" and loss is not None:
        held["losses"].append([float(step), loss])


def ask(memory: Memory, step: int) -> Proposal | None:
    """What the branch asks of the arbiter after a step; None: the run goes on."""
    asked = Branch(**memory["branch"]).next(step)
    if asked is None:
        return None
    memory["asked"] = asked[0].to_dict()
    return asked[1]


def heard(memory: Memory, action: str, change: Change, limits: Limits) -> bool:
    """Learn what became of the snapshot, or of the way back to it.

    Where there is nothing to go back to, the change is made without a comparison.

    Returns:
        Whether the change was one of the branch's own.
    """
    if action not in (TAKE, GO_BACK):
        return False
    held = memory["branch"]
    if change.outcome != "applied":
        held |= {"stage": "with", "losses": []}
    elif action == TAKE:
        until = memory["step"] + 2 + steps_of(limits)
        held |= {"stage": "without", "until": until}
    else:
        held["stage"] = "back"
    return True


def rolled_back(memory: Memory) -> None:
    """The run went back: to the snapshot, or elsewhere, where nothing is compared."""
    held = memory["branch"]
    if held is not None:
        losses = held["losses"] if held["stage"] == "back" else []
        held |= {"stage": "with", "losses": losses}


def over(memory: Memory) -> list[list[float]]:
    """The losses without the change, which is made now or was refused."""
    held, memory["branch"] = memory["branch"], None
    return [] if held is None else list(held["losses"])


def wanted(
    decision: Decision, limits: Limits, plan: Plan, counts: Mapping[str, int]
) -> bool:
    """Whether a decision is measured against the run without it.

    Args:
        decision: that is about to be made.
        limits: have the number of branches of a run.
        plan: of the run.
        counts: of the ledger.
    """
    if counts.get("branches", 0) >= limits.branches or decision.mode != "on":
        return False
    action = ACTIONS.get(decision.action)
    ends = decision.step + 2 * steps_of(limits)
    return action is not None and decision.control not in NEVER and ends < plan.steps
