"""Options of the orchestrator: what it decides, and whether it acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from lumina.plan.plan import Plan
from lumina.train.health.check import CHECKS, Alarm, Check
from option_effects import shows
from tiny_runs import Run, Runs


@contextmanager
def alarm(anomaly: str, *steps: int, confidence: float = 0.95) -> Iterator[None]:
    """The only check is one that raises the alarm of an anomaly in some steps."""

    class Made(Check):
        name, penalty, rule = anomaly, 10, "in the steps of a test"

        def __init__(self, plan: Plan) -> None:
            super().__init__(plan)

        def see(self, row: Mapping[str, Any]) -> Alarm | None:
            if row["step"] not in steps:
                return None
            return Alarm(
                "it is a test", {"step_seen": row["step"]}, "error", confidence
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(CHECKS, anomaly, raising=False)
        for name in list(CHECKS):
            patch.delitem(CHECKS, name)
        patch.setitem(CHECKS, anomaly, Made)
        yield


def decisions(run: Run) -> list[dict[str, Any]]:
    """The data of the decisions, in their order, with the step."""
    return [
        {"step": event["step"], **event["data"]}
        for event in run.events
        if event["kind"] == "decision"
    ]


@shows("adaptive")
def modes(runs: Runs) -> None:
    """Shadow decides and changes nothing; on does the same and halves the rate."""
    with alarm("divergence", 1):
        off, shadow, on = (
            runs.train(adaptive=mode, max_grad_norm=0.5)
            for mode in ("off", "shadow", "on")
        )
    assert off.column("loss") == shadow.column("loss")
    assert shadow.column("learning_rate") == [3e-3] * 3
    assert on.column("learning_rate") == [3e-3, 3e-3, 1.5e-3]
    assert not decisions(off)
    (seen,), (done,) = decisions(shadow), decisions(on)
    assert (seen.pop("mode"), done.pop("mode")) == ("shadow", "on")
    assert seen == done
    assert done == {
        "number": 1, "step": 1, "anomaly": "divergence", "action": "lower_rate",
        "level": 2, "confidence": 0.95, "control": "learning_rate",
        "old": 3e-3, "new": 1.5e-3, "reason": "half the learning rate: it is a test",
        "evidence": {"step_seen": 1, "phase": done["evidence"]["phase"]},
    }  # fmt: skip
    assert runs.config(use_adaptive_training=True).adaptive.adaptive == "on"
