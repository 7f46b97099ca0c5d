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

    held = dict(CHECKS)
    CHECKS.clear()
    CHECKS[anomaly] = Made
    try:
        yield
    finally:
        CHECKS.clear()
        CHECKS.update(held)  # in their order


def decisions(run: Run) -> list[dict[str, Any]]:
    """The data of the decisions, in their order, with the step."""
    return [
        {"step": event["step"], **event["data"]}
        for event in run.events
        if event["kind"] == "decision"
    ]


@pytest.mark.covers("ORC-01: use_adaptive_training")
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


@pytest.mark.covers(
    "ORC-43: multi-level decision toggles",
    "ORC-43: confidence thresholds in configuration",
    "ORC-39: cooldown",
)
@shows(
    "adaptive_levels",
    "adaptive_confidence_undo",
    "adaptive_confidence_rollback",
    "adaptive_confidence_final",
    "adaptive_without",
    "adaptive_cooldown_steps",
    "adaptive_cooldown_tokens",
)
def limits(runs: Runs) -> None:
    """What is beyond a limit is not done, and the decision says why."""
    without = {"adaptive_without": ("reset_moments", "rollback_lower_rate")}
    without |= {"adaptive_levels": (1, 2, 3)}
    found = [
        ({"adaptive_levels": (1,)}, "level 2 is not among adaptive_levels"),
        ({"adaptive_confidence_undo": 0.96} | without, "0.95 is below 0.96"),
    ]
    with alarm("divergence", *range(1, 9)):
        for limit, why in found:
            run = runs.train(adaptive="on", **limit)
            assert run.column("learning_rate") == [3e-3] * 3
            assert decisions(run)[0]["action"] == "nothing"
            assert why in decisions(run)[0]["reason"]
        base = {"adaptive": "on", "adaptive_levels": (2,)}
        base |= {"adaptive_without": ("lower_rate",)}
        run = runs.train(**base)
        assert [d["action"] for d in decisions(run)] == ["reset_moments"]
        run = runs.train(**base, adaptive_confidence_rollback=0.96)
        assert "0.95 is below 0.96" in decisions(run)[0]["reason"]
        base = {"adaptive": "shadow", "steps": 8, "eval_fraction": 0.0}
        for limit, steps in (
            ({"adaptive_cooldown_steps": 1}, [1, 4, 7]),
            ({"adaptive_cooldown_steps": 8}, [1, 6]),
            # Half of them, of an urgent anomaly; a step has about 75 tokens.
            ({"adaptive_cooldown_steps": 1, "adaptive_cooldown_tokens": 600}, [1, 5]),
        ):
            run = runs.train(**base, **limit)
            assert [d["step"] for d in decisions(run)] == steps
    with alarm("slow_learning", 1):
        run = runs.train(adaptive="on")
        assert run.column("learning_rate")[2] == pytest.approx(4.5e-3)
        run = runs.train(adaptive="on", adaptive_confidence_final=0.96)
        assert run.column("learning_rate") == [3e-3] * 3
    runs.refused("E004", adaptive="on", adaptive_without=("juggle",))
    runs.refused("E002", adaptive="on", adaptive_levels=(5,))


@pytest.mark.covers("ORC-43: health_check_interval 100")
@shows("health_check_interval")
def reports(runs: Runs) -> None:
    every, none = runs.both("health_check_interval", 2, 0, adaptive="shadow", steps=4)
    kinds = [event["kind"] for event in none.events]
    assert "health_check" not in kinds
    told = [e for e in every.events if e["kind"] == "health_check"]
    assert [event["step"] for event in told] == [2, 4]
    assert told[0]["data"]["score"] == 100 and told[0]["data"]["decisions"] == 0


@pytest.mark.covers(
    "ORC-14: 3 hard: rollback",
    "MON-06: emergency_interventions, rollbacks_performed",
)
@pytest.mark.thorough
@shows("adaptive_rollbacks")
def rollbacks(runs: Runs) -> None:
    """The run goes back as often as it may, and its account outlives that."""
    base = {"adaptive": "on", "adaptive_levels": (3,), "adaptive_cooldown_steps": 2}
    base |= {"steps": 15, "save_every_n_batches": 1, "save_total_limit": 9}
    with alarm("divergence", *range(4, 16)):  # the ladder begins again at 14
        once, never = runs.both("adaptive_rollbacks", 1, 0, **base)
    assert [e["kind"] for e in never.events].count("rolled_back") == 0
    (back,) = [e for e in once.events if e["kind"] == "rolled_back"]
    assert back["step"] < 5
    assert once.rows[-1]["rollbacks_performed"] == 1
    assert once.rows[-1]["emergency_interventions"] == 1
    assert [row["step"] for row in once.rows] == list(range(1, 16))
    assert once.rows[-1]["learning_rate"] == 1.5e-3
    told = [d["reason"] for d in decisions(once) if d["action"] == "nothing"]
    assert any("the run went back 1 time" in reason for reason in told)


@shows("adaptive_branches")
def branches(runs: Runs) -> None:
    """The first change is seen from both sides, and the second is made at once."""
    base = {"adaptive": "on", "adaptive_cooldown_steps": 1, "snapshot_every": 4}
    base |= {"adaptive_levels": (1, 2)}  # it goes back for nothing else
    with alarm("divergence", 3, 16):
        one, none = runs.both("adaptive_branches", 1, 0, **base, steps=24)
    assert not (none.folder / "undone").exists()
    back = [e for e in one.events if e["kind"] == "rolled_back"]
    assert len(back) == 1
    assert back[0]["step"] < 8 and not back[0]["data"]["skip_data"]
    assert len(decisions(one)) >= 2
