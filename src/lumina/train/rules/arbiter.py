"""The arbiter: of what the rules propose, at most one change is granted at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.errors import LuminaError
from lumina.train.controls import control_named
from lumina.train.rules.rule import REVERSALS, Proposal, Reversal, Rule

NEEDED: dict[Reversal, float] = {"undo": 0.6, "rollback": 0.8, "never": 0.9}
"""The least confidence of a proposal that is granted: the harder a change is to take
back, the surer its rule must be."""


def needed_by(confidence: Sequence[float] | None) -> dict[Reversal, float]:
    """The least confidence by how far a change can be taken back.

    Args:
        confidence: in the order of `REVERSALS`; None: `NEEDED`.
    """
    if confidence is None:
        return dict(NEEDED)
    return dict(zip(REVERSALS, confidence, strict=True))


@dataclass(frozen=True)
class Ruling:
    """What the arbiter decided about a proposal.

    Attributes:
        rule: the name of the rule that proposed it.
        proposal: the change.
        due: completed steps at which it takes effect.
        refusal: why it is refused; empty for a change that is granted.
    """

    rule: str
    proposal: Proposal
    due: int
    refusal: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "rule": self.rule,
            "proposal": self.proposal.to_dict(),
            "due": self.due,
            "refusal": self.refusal,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Ruling:
        """The inverse of `to_dict`."""
        return Ruling(**values | {"proposal": Proposal(**values["proposal"])})


class Arbiter:
    """Chooses among proposals; the same on every rank.

    A proposal is granted when its confidence suffices for how far it can be taken back,
    when no other change waits to take effect, and when neither its rule nor its control
    is cooling down. Of several the highest precedence wins, then the surest, then the
    name that comes first. A proposal for a pinned control is refused, as is a value
    that makes no sense; a refusal is recorded once for each rule and control.

    Args:
        pinned: the controls that no rule may change.
        needed: the least confidence by how far a change can be taken back.
    """

    def __init__(
        self,
        pinned: Iterable[str] = (),
        needed: Mapping[Reversal, float] = NEEDED,
    ) -> None:
        self._pinned = frozenset(pinned)
        self._needed = needed
        self._rulings: list[Ruling] = []
        self._cooling: dict[str, int] = {}
        self._told: list[tuple[str, str]] = []

    def hear(self, step: int, proposals: list[tuple[Rule, Proposal]]) -> None:
        """Decide about the proposals that follow from one row or evaluation.

        Args:
            step: of that row or evaluation.
            proposals: each with its rule.
        """
        ranked = sorted(
            proposals,
            key=lambda p: (-p[0].precedence, -p[1].confidence, p[0].name),
        )
        for rule, proposal in ranked:
            objection = self._objection(rule, proposal)
            if not objection and not self._may(rule, proposal, step):
                continue
            objection = objection or _nonsense(proposal)
            if objection:
                self._refuse(rule, proposal, step + 1, objection)
            else:
                self._rulings.append(Ruling(rule.name, proposal, step + 1))
                until = step + 1 + rule.cooldown
                self._cooling[f"rule {rule.name}"] = until
                self._cooling[f"control {proposal.control}"] = until

    def due(self, step: int) -> list[Ruling]:
        """The rulings that take effect after `step` steps; each is given out once."""
        if not self._rulings:
            return []
        found = [ruling for ruling in self._rulings if ruling.due <= step]
        self._rulings = [ruling for ruling in self._rulings if ruling.due > step]
        return found

    def rolled_back(self, step: int, since: int) -> None:
        """The steps count again from `step`: what cools down does so for as long.

        What was granted and has not taken effect is released.

        Args:
            step: completed steps now.
            since: completed steps before.
        """
        self._rulings = []
        self._cooling = {
            key: until - (since - step)
            for key, until in self._cooling.items()
            if until > since
        }

    def state(self) -> dict[str, Any]:
        """Plain JSON values, for a checkpoint."""
        return {
            "rulings": [ruling.to_dict() for ruling in self._rulings],
            "cooling": dict(self._cooling),
            "told": [list(pair) for pair in self._told],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._rulings = [Ruling.from_dict(values) for values in state["rulings"]]
        self._cooling = dict(state.get("cooling", {}))
        self._told = [(rule, control) for rule, control in state.get("told", [])]

    def _may(self, rule: Rule, proposal: Proposal, step: int) -> bool:
        """Whether a proposal may be granted."""
        cooling = (f"rule {rule.name}", f"control {proposal.control}")
        needed = self._needed[reversal_of(proposal.control, proposal.reversal)]
        return (
            not any(not ruling.refusal for ruling in self._rulings)
            and all(step >= self._cooling.get(key, 0) for key in cooling)
            and proposal.confidence >= needed
        )

    def _objection(self, rule: Rule, proposal: Proposal) -> str:
        """Why a proposal can never be granted; empty where it can."""
        control = proposal.control
        if control not in rule.changes:
            return f"E005 {rule.name} does not list {control} in `changes`"
        if control in self._pinned:
            return f"E002 {control} is pinned"
        return ""

    def _refuse(self, rule: Rule, proposal: Proposal, due: int, why: str) -> None:
        """Refuse a proposal; what follows of the same rule and control is ignored."""
        pair = (rule.name, proposal.control)
        if pair not in self._told:
            self._told.append(pair)
            self._rulings.append(Ruling(rule.name, proposal, due, why))


def _nonsense(proposal: Proposal) -> str:
    """Why the control cannot take the value; empty where it can."""
    try:
        control_named(proposal.control).check_value(proposal.value)
    except LuminaError as error:
        return f"{error.code} {error.message}"
    return ""


def reversal_of(control: str, reversal: Reversal) -> Reversal:
    """How far a change can be taken back, also by what its control declares.

    Args:
        control: the name of what is changed.
        reversal: how far whatever proposes the change can take it back.
    """
    declared: Reversal = "rollback" if control_named(control).final else "undo"
    return max(reversal, declared, key=REVERSALS.index)
