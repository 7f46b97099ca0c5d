"""When a run is ended, what is tried before, and when it goes on instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lumina.train.orchestrator.course import Course, follow
from lumina.train.orchestrator.ladders import LADDERS
from orchestrator_runs import COOLDOWN, Made, falling

LOST = 5.0
"""About the loss at which the made runs begin."""


def noisy(level: float) -> Callable[[int], float]:
    """A level loss with a little noise."""
    return lambda step: level + 0.01 * (step % 3 - 1)


def ended(made: Made) -> list[int]:
    """The steps in which the run would have ended."""
    return [step for step, action in made.decided() if action == "stop_with_diagnosis"]


def diverging(loss: Callable[[int], float], steps: int = 400, **more: Any) -> Made:
    """A run that learned for 60 steps and is then told that it diverges."""
    made = Made(steps=600, **more).run(60, falling)
    return made.run(steps, loss, "divergence", severity="error")


def test_a_lost_run_ends_when_everything_was_tried_twice() -> None:
    made = diverging(noisy(LOST))
    actions = [action for _, action in made.decided() if action != "nothing"]
    end = actions.index("stop_with_diagnosis")
    assert set(LADDERS["divergence"]) - set(actions[:end]) <= {
        "stop_with_diagnosis",
        "compute_in_bf16",  # the run computes in float32
        "compute_in_fp32",
    }
    assert actions[:end].count("lower_rate") == 2, "in both rounds"
    assert actions[:end].count("rollback_lower_rate") == 3, "as often as it may"
    assert ended(made)[0] - 60 > 4 * COOLDOWN
    ending = made.changes[actions.index("stop_with_diagnosis")].value
    assert ending["failed"] and "lower --learning-rate" in ending["advice"]


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (noisy(3.0), "more than half is left"),
        (lambda step: 8.0 - step / 100, "the loss falls again"),
    ],
)
def test_a_run_that_may_still_learn_goes_on(
    loss: Callable[[int], float], why: str
) -> None:
    """Also where its loss is far above what it was, as that of another text may be."""
    made = diverging(loss)
    assert not ended(made)
    actions = {action for _, action in made.decided()}
    assert {"lower_rate", "rollback_lower_rate", "reset_moments"} <= actions
    reasons = [data["reason"] for _, kind, data in made.told if kind == "decision"]
    assert any("stop_with_diagnosis: the loss" in one and why in one for one in reasons)


def test_a_stretch_of_other_data_ends_no_run() -> None:
    """For eight cooldowns the loss is as if nothing had been learned; not later."""
    made = diverging(noisy(LOST), steps=8 * COOLDOWN)
    made.run(200, falling)
    assert not ended(made)


def test_what_was_passed_over_is_taken_before_the_end() -> None:
    """Rollbacks need more confidence than the changes beside them."""
    made = Made(steps=600).run(60, falling)
    made.run(100, noisy(LOST), "divergence", severity="error", confidence=0.75)
    assert "rollback_lower_rate" not in [action for _, action in made.decided()]
    last = LADDERS["divergence"].index("stop_with_diagnosis")
    made.policy.episodes.climb("divergence", last)
    before = len(made.decided())
    made.run(60, noisy(LOST), "divergence", severity="error")
    taken = [action for _, action in made.decided()[before:] if action != "nothing"]
    assert taken[:2] == ["rollback_lower_rate", "reset_moments"]
    assert "stop_with_diagnosis" in taken


def test_the_end_waits_until_the_last_change_is_measured() -> None:
    made = diverging(noisy(LOST))
    told = [(step, kind) for step, kind, _ in made.told if step <= ended(made)[0]]
    steps = [change.step or 0 for change in made.changes]
    last = max(step for step in steps if step < ended(made)[0])
    assert ended(made)[0] - last >= 2 * COOLDOWN
    assert "decision_outcome" in [kind for step, kind in told if step > last]


def test_without_the_right_to_end_runs_none_is_ended() -> None:
    made = diverging(noisy(LOST), levels=[1, 2, 3])
    assert not ended(made)


def test_the_course_of_a_run_is_kept_over_a_resume() -> None:
    """Where it began and how low it came, of losses that left the window long ago."""
    memory: dict[str, Any] = {"losses": []}
    for step in range(1, 301):
        memory["losses"] = [*memory["losses"], [step, falling(step)]][-50:]
        follow(memory)
    course = Course.of(memory, 1, 10)
    assert course.outset == pytest.approx(falling(3), abs=0.05)
    assert course.lowest == pytest.approx(falling(298), abs=0.02)
    assert course.latest == pytest.approx(course.lowest, abs=0.02)
    made = Made(steps=600).run(100, falling)
    held = made.policy.state()["memory"]
    assert held["outset"] > held["lowest"] > 0
