"""What an action is, and the table of actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.controls import control_named
from lumina.train.orchestrator.decision import Measured
from lumina.train.rules.rule import Now, Proposal, Reversal

if TYPE_CHECKING:
    from lumina.train.health.watching import Finding
    from lumina.train.orchestrator.course import Course


class Action:
    """One thing that the orchestrator can do about a finding. A subclass is one.

    Attributes:
        name: what ladders, events and options call it.
        level: how far it interferes: 0 not at all, 1 a nudge, 2 a change of the
            training, 3 a step back, 4 the end of the run.
        control: what it changes; empty for an action that changes nothing.
        reversal: how far it can be taken back.
        restarts: the run begins again, so that what comes of it shows at the steps that
            it had reached.
        measures: what says whether it has helped: "loss", "seconds" of a step or
            "memory", the share in use.
        last_resort: it comes after everything else on its ladder: what was passed over
            on the way is taken first where it can be by now.
    """

    name: ClassVar[str]
    level: ClassVar[int]
    control: ClassVar[str] = ""
    reversal: ClassVar[Reversal] = "undo"
    restarts: ClassVar[bool] = False
    last_resort: ClassVar[bool] = False
    measures: ClassVar[Measured] = "loss"

    def possible(self, plan: Plan) -> str:
        """Why a run of this Plan cannot have the action; empty where it can."""
        if not self.control:
            return ""
        try:
            control_named(self.control).check_plan(plan)
        except LuminaError as error:
            return error.message
        return f"{self.control} is pinned" if self.control in plan.pinned else ""

    def premature(self, course: Course) -> str:
        """Why it is too early for the action; empty where it is not.

        Args:
            course: how the run has gone so far.
        """
        return ""

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The change, with the confidence of the finding.

        Args:
            finding: what it is to help against.
            now: gives the present value of a control by its name.
            plan: of the run.

        Returns:
            None where the control is at its bound already.
        """
        raise NotImplementedError

    def changed(self, finding: Finding, value: object, what: str) -> Proposal:
        """A proposal of the action's own control.

        Args:
            finding: what it is to help against.
            value: the value to set.
            what: the change in words.
        """
        return Proposal(
            self.control,
            value,
            f"{what}: {finding.text}",
            evidence=dict(finding.evidence),
            confidence=finding.confidence,
            reversal=self.reversal,
        )


ACTIONS: dict[str, Action] = {}
"""Name -> action; filled by `register_action`."""

A = TypeVar("A", bound=type[Action])


def register_action(cls: A) -> A:
    """Enter an action in the table: a decorator of a subclass of `Action`.

    Raises:
        LuminaError: E005 for a name that another class has.
    """
    held = ACTIONS.get(cls.name)
    if held is not None and type(held).__qualname__ != cls.__qualname__:
        raise LuminaError(
            "E005",
            f"{cls.name!r} already names the action {type(held).__qualname__} of "
            f"{type(held).__module__}",
            "choose another name",
        )
    ACTIONS[cls.name] = cls()
    return cls


def controls_of_actions() -> tuple[str, ...]:
    """The controls that some action changes, each once."""
    return tuple(dict.fromkeys(a.control for a in ACTIONS.values() if a.control))
