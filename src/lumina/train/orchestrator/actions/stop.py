"""The actions that end a run."""

from __future__ import annotations

from typing import ClassVar

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

ADVICE = {
    "divergence": "lower --learning-rate or raise --warmup-steps",
    "nonfinite": "lower --learning-rate, or train with --precision fp32",
    "exploding_gradients": "lower --learning-rate or --max-grad-norm",
    "high_rate": "lower --learning-rate",
}
"""Anomaly -> what to do about a run that it ended."""

OTHERWISE = "look at events.jsonl for what was tried"


class _Stop(Action):
    """The end of the run.

    Attributes:
        failed: it cannot go on; else it is done.
        paused: it goes on when it is resumed.
        why: in words.
        what: it does, in words.
    """

    what: ClassVar[str] = "end the run"
    paused: ClassVar[bool] = False
    level = 4
    control = "stop_run"
    reversal = "never"
    failed: ClassVar[bool]
    why: ClassVar[str]

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """What was seen, and what to do."""
        advice = ADVICE.get(finding.anomaly, OTHERWISE)
        value = {
            "reason": f"{self.why}: {finding.text}",
            "failed": self.failed,
            "advice": f"{advice}, then go on from the last checkpoint with "
            "--auto-resume" if self.failed else OTHERWISE,
        }  # fmt: skip
        if self.paused:
            value["paused"] = True
        return self.changed(finding, value, f"{self.what}, since {self.why}")


@register_action
class StopWithDiagnosis(_Stop):
    """End a run that nothing has helped, with E301."""

    name = "stop_with_diagnosis"
    failed = True
    why = "nothing that was tried has helped"


@register_action
class StopEarly(_Stop):
    """End a run that only gets worse, and keep what it has learned."""

    name = "stop_early"
    failed = False
    why = "further training does not help"


@register_action
class Pause(_Stop):
    """End a run with its State saved, so that a person decides whether it goes on."""

    name = "pause"
    failed, paused = False, True
    what = "pause the run"
    why = "a person has to look at it (--resume goes on)"
