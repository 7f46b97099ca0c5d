"""A policy with a run around it that is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lumina.train.controls import Change
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.policy import Policy
from programs import tiny_plan

COOLDOWN = 5

VALUES: dict[str, Any] = {
    "learning_rate": 1e-3,
    "eval_every": 0,
    "max_grad_norm": 1.0,
    "weight_decay": 0.01,
    "optimizer_moments": "kept",
    "rewarm": {"steps": 1, "share": 0.999},
    "rollback": None,
    "rate_glide": {"steps": 1, "share": 1.0},
    "stop_run": None,
}


class Made:
    """A policy with a run around it that is made up.

    Attributes:
        told: (step, kind, data) of the events.
        changes: those that were carried out.
        seconds: gives the time of a step; None: rows have none.
    """

    def __init__(
        self,
        mode: str = "on",
        moe: bool = False,
        steps: int = 200,
        levels: list[int] | None = None,
        **plan: Any,
    ) -> None:
        settings: dict[str, Any] = {"mode": mode, "cooldown_steps": COOLDOWN}
        settings |= {} if levels is None else {"levels": levels}
        self.plan = tiny_plan(
            moe=moe, steps=steps, max_grad_norm=1.0, orchestrator=settings
        )
        self.plan = self.plan.replace(learning_rate=1e-3, **plan)
        self.policy = Policy(self.plan)
        self.values = dict(VALUES)
        self.told: list[tuple[int, str, dict[str, Any]]] = []
        self.changes: list[Change] = []
        self.step = 0
        self.seconds: Callable[[], float] | None = None

    def run(
        self,
        steps: int,
        loss: Callable[[int], float],
        *found: str,
        confidence: float = 0.95,
        severity: Any = "warning",
        over: int = 0,
        next_reading: int | None = 1,
    ) -> Made:
        """Some steps with these losses, and in each of them these findings."""
        for _ in range(steps):
            self.step += 1
            row: dict[str, Any] = {"step": self.step, "loss": loss(self.step)}
            if self.seconds is not None:
                row["agreed_step_seconds"] = self.seconds()
            self.policy.see(row)
            findings = [
                Finding(
                    name,
                    self.step,
                    severity,
                    confidence,
                    f"{name} was made",
                    {"steps": over} if over else {},
                    next_reading=next_reading,
                )
                for name in found
            ]
            proposal = self.policy.decide(
                self.step, findings, lambda name: self.values[name], "steady"
            )
            if proposal is not None:
                change = Change(
                    len(self.changes) + 1, proposal.control, proposal.value,
                    proposal.reason, "orchestrator", undoes=proposal.undoes,
                    step=self.step, old=self.values[proposal.control],
                    outcome="applied",
                )  # fmt: skip
                self.values[proposal.control] = proposal.value
                self.changes.append(change)
                self.policy.changed(change, "orchestrator")
            for note in self.policy.notes():
                self.told.append((note.step, note.kind, dict(note.evidence)))
        return self

    def decided(self) -> list[tuple[int, str]]:
        found = [(step, d) for step, kind, d in self.told if kind == "decision"]
        return [(step, data["action"]) for step, data in found]

    def outcomes(self) -> list[tuple[int, str]]:
        found = [d for _, kind, d in self.told if kind == "decision_outcome"]
        return [(data["number"], data["verdict"]) for data in found]


def falling(step: int) -> float:
    """A loss that falls more and more slowly, with even noise."""
    return 2.0 + 3.0 * step**-0.5 + 0.01 * (step % 3 - 1)
