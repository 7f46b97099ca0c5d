"""The actions that end a run."""

from __future__ import annotations

from typing import ClassVar

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.orchestrator.course import Course
from lumina.train.rules.rule import Now, Proposal

ADVICE = {
    "divergence": "lower --learning-rate or raise --warmup-steps",
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


ROUNDS = 1
"""How often the whole ladder has to have been gone through before a run is ended."""

HALF = 0.5
"""Share of what was learned that a run has to have lost before it is ended."""

SOMETHING = 0.01
"""Share of its first loss by which a run has to have come down to have learned."""


@register_action
class StopWithDiagnosis(_Stop):
    """End a run that nothing has helped, with E301.

    A run that goes on costs the rest of its steps, and its good checkpoints stay. One
    that is ended loses the steps since the last checkpoint, and all that it would have
    learned if the trouble had passed: a stretch of other text, for example, raises the
    loss without any harm to the weights. So a run is ended only where nothing speaks
    for going on: the whole ladder was gone through and begun again, more than half of
    what was learned is lost, and the loss does not fall. Gradients that are not finite
    end a run by themselves, after 50 steps in a row.
    """

    name = "stop_with_diagnosis"
    failed = True
    last_resort = True
    why = "nothing that was tried has helped"

    def premature(self, course: Course) -> str:
        """While the run may still learn, or has most of what it learned."""
        if course.rounds < ROUNDS:
            return "the run is ended only when everything was tried twice"
        if course.latest is None or course.outset is None or course.lowest is None:
            return "too few losses are known to say that the run is lost"
        learned = course.outset - course.lowest
        some = learned > SOMETHING * course.outset
        if some and course.latest < course.outset - HALF * learned:
            return (
                f"the loss is {course.latest:.4f}: of what it fell from "
                f"{course.outset:.4f} to {course.lowest:.4f} more than half is left"
            )
        if course.falls:
            return "the loss falls again"
        return ""


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
