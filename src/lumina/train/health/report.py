"""The convergence report: good signs, warning signs, and what to do about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lumina.quantities import share as in_percent
from lumina.train.health.check import number

if TYPE_CHECKING:
    from lumina.train.health.watching import Watching

FALLS = 0.02
"""A loss that falls by this share over the run, after its warm-up, is falling."""

WARNINGS = {
    "oscillation": "lower the learning rate or take larger batches",
    "divergence": "lower the learning rate or go back to an earlier checkpoint",
    "overfitting": "more regularisation (--weight-decay, --dropout), an early stop "
    "(--early-stopping-patience) or more data",
    "plateau": "another learning rate, or a larger model",
    "slow_learning": "a higher learning rate",
    "exploding_gradients": "a lower learning rate, a longer warm-up or --max-grad-norm",
    "vanishing_gradients": "other initial values, or a higher precision",
    "forgetting": "more of the earlier data, or a lower learning rate",
    "expert_imbalance": "a higher weight of the balance loss, or its bias rate",
    "dead_experts": "a higher weight of the balance loss, or its bias rate",
}
"""Check -> what helps against what it has found."""


@dataclass(frozen=True)
class ConvergenceReport:
    """How a run converges.

    Attributes:
        phase: that it is in.
        good: good signs, a sentence each.
        warnings: warning signs, likewise.
        advice: what helps against the warnings.
        prediction: of convergence, see `lumina.train.health.prediction`.
    """

    phase: str
    good: list[str]
    warnings: list[str]
    advice: list[str]
    prediction: dict[str, Any]

    @staticmethod
    def of(watching: Watching) -> ConvergenceReport:
        """Of what has been watched so far."""
        outlook, holding = watching.outlook.memory, watching.holding
        raised = [name for name in WARNINGS if name in watching.until]
        good = [
            *_losses(outlook),
            *_evaluations(outlook),
            *_others(watching, outlook),
        ]
        warnings = [
            f"{name}: {'it goes on' if name in holding else 'lately'}, last at step "
            f"{watching.last[name]:,}"
            for name in raised
            if name in watching.last
        ]
        return ConvergenceReport(
            watching.phase,
            good,
            warnings,
            list(dict.fromkeys(WARNINGS[name] for name in raised)),
            watching.outlook.convergence().to_dict(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @property
    def text(self) -> str:
        """The report in sentences."""
        parts = [
            f"{self.phase.lower()}; good signs: {', '.join(self.good) or 'none'}",
            f"warning signs: {', '.join(self.warnings) or 'none'}",
        ]
        if self.advice:
            parts.append("what helps: " + "; ".join(self.advice))
        found = self.prediction
        if found["reason"]:
            parts.append(f"no prediction: {found['reason']}")
        else:
            low, high = found["interval"]
            parts.append(
                f"final loss {found['expected_final_loss']:.4f} expected, with 90% "
                f"between {low:.4f} and {high:.4f}"
            )
        return ". ".join(parts)


def _losses(memory: dict[str, Any]) -> list[str]:
    parts = [part for part in memory.get("course", {}).get("parts", []) if part[0]]
    if len(parts) < 4:
        return []
    first, last = (parts[at][1] / parts[at][0] for at in (0, -1))
    if last > (1 - FALLS) * first:
        return []
    return [f"the loss fell from {first:.4f} to {last:.4f}"]


def _evaluations(memory: dict[str, Any]) -> list[str]:
    first, last = memory.get("first_evaluation"), memory.get("last_evaluation")
    if not first or not last or first["step"] == last["step"]:
        return []
    found = []
    losses = number(first, "eval_loss"), number(last, "eval_loss")
    if losses[0] is not None and losses[1] is not None and losses[1] < losses[0]:
        found.append(f"the held-out loss follows, to {losses[1]:.4f}")
    right = number(first, "eval_accuracy"), number(last, "eval_accuracy")
    if right[0] is not None and right[1] is not None and right[1] > right[0]:
        found.append(f"the held-out accuracy rose to {in_percent(right[1])}")
    return found


def _others(watching: Watching, memory: dict[str, Any]) -> list[str]:
    found = []
    if memory.get("norms") and "exploding_gradients" not in watching.until:
        found.append("the gradient norm is stable")
    uneven = {"expert_imbalance", "dead_experts"} & set(watching.until)
    if memory.get("emptiest") and not uneven:
        found.append("the experts are balanced")
    return found
