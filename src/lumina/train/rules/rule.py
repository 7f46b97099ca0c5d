"""The protocol of a rule, what it proposes, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.state.events import Severity
from lumina.train.controls.change import Change

Reversal = Literal["undo", "rollback", "never"]
"""How far a change can be taken back: by the control itself, by going back to a
checkpoint from before it, or not at all."""

REVERSALS: tuple[Reversal, ...] = ("undo", "rollback", "never")
"""From the easiest to take back to the hardest."""

Now = Callable[[str], Any]
"""From a control's name to its value in the step whose row was seen last."""


@dataclass(frozen=True)
class Proposal:
    """A change that a rule proposes.

    Attributes:
        control: what to change.
        value: the value to set.
        reason: why, as a sentence for the journal.
        evidence: the figures behind it, for the event.
        confidence: how sure the rule is, from 0 to 1.
        reversal: how far the change can be taken back, as the rule sees it.
        undoes: the id of the change that this one takes back; None for none.
    """

    control: str
    value: Any
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 1.0
    reversal: Reversal = "undo"
    undoes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Proposal(**values)` is the inverse."""
        return asdict(self) | {"evidence": dict(self.evidence)}


@dataclass(frozen=True)
class Note:
    """What a rule has found and only tells.

    Attributes:
        step: of the row that led to it.
        text: a sentence for the event.
        evidence: the figures behind it.
        severity: of the event.
        kind: of the event; empty for the name of the rule.
    """

    step: int
    text: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    severity: Severity = "warning"
    kind: str = ""


class Rule:
    """Watches a run and proposes changes. A subclass is one rule.

    Every rank has the same rules, shows them the same rows and so comes to the same
    proposals: a rule must compute them from what it has seen, and from nothing else,
    such as a clock or a random number. Rows have no times and no memory figures, which
    differ between ranks, but for a rule that changes nothing and only tells.

    A proposal that is granted takes effect two steps after the row that led to it, when
    every rank has that row, however late rows arrive. So a resumed run decides what a
    run that never stopped decides, provided `state` holds all that the rule remembers.

    Attributes:
        name: how the plan, the events and the checkpoints call it.
        changes: the controls that it may change.
        precedence: of two proposals the one of the higher precedence is granted.
        cooldown: steps after a change by this rule in which it changes nothing, and
            the control that it changed is not changed by another rule either.
    """

    name: ClassVar[str]
    changes: ClassVar[tuple[str, ...]]
    precedence: ClassVar[int] = 0
    cooldown: ClassVar[int] = 0

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """Why the rule is on in a run of this Plan; None where it is off."""
        raise NotImplementedError

    @classmethod
    def made_for(cls, plan: Plan) -> Rule:
        """The rule for a run of this Plan, which may hold its settings."""
        return cls()

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in the metrics of one step."""

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take in an evaluation after `step` steps."""

    def propose(self, step: int, now: Now) -> Proposal | None:
        """What to change, if anything; asked after every row and every evaluation.

        Args:
            step: of the row or the evaluation.
            now: gives the present value of a control by its name.
        """
        raise NotImplementedError

    def changed(self, change: Change, rule: str | None) -> None:
        """Learn what became of a change: applied or refused, on every rank alike.

        Args:
            change: its `outcome`, `old` and `step` are filled in.
            rule: the name of the rule that proposed it; None for a person's request.
        """

    def notes(self) -> list[Note]:
        """What was found since the last call and is only to be told, as an event."""
        return []

    def metrics(self) -> Mapping[str, Any]:
        """What it adds to the row that it has seen last."""
        return {}

    def status(self) -> Mapping[str, Any]:
        """What it says of itself while the run goes on, by names of its own."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that the rule remembers, as plain JSON values."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""

    def rolled_back(self, step: int, then: dict[str, Any] | None) -> None:
        """The run was taken back to an earlier step, and its steps count again.

        A rule that has to remember what it did overrides this.

        Args:
            step: completed steps now.
            then: what `state` was at that step; None where it is not known.
        """
        if then is not None:
            self.load(then)


RULES: dict[str, type[Rule]] = {}
"""Name -> rule; filled by `register_rule`."""

R = TypeVar("R", bound=type[Rule])


def register_rule(cls: R) -> R:
    """A decorator of a subclass of `Rule`, which then watches runs that it is for.

    Raises:
        LuminaError: E005 for a name that another rule has.
    """
    held = RULES.get(cls.name)
    if held is not None and held.__qualname__ != cls.__qualname__:
        raise LuminaError(
            "E005",
            f"{cls.name!r} already names the rule {held.__qualname__} of "
            f"{held.__module__}",
            "choose another name",
        )
    RULES[cls.name] = cls
    return cls
