"""Decisions of several processes, and of a run that was killed and went on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechanisms import mechanism
from training import (
    DENSE,
    assert_same_run,
    column,
    events,
    reached,
    wait_until,
    words,
)

pytestmark = pytest.mark.thorough

STEPS = 30

CHECK = """
from lumina.train.health.check import Alarm, Check, register_check


@register_check
class Divergence(Check):
    name, penalty, rule = "divergence", 10, "in some steps"

    def see(self, row):
        if row["step"] not in (6, 16):
            return None
        return Alarm("a test", {"loss": row["loss"]}, "error", 0.9)
"""

FLAGS = words(
    f"--steps {STEPS} --precision fp32 --adaptive on --adaptive-cooldown-steps 3 "
    "--adaptive-without rollback_lower_rate --adaptive-levels 1 2 3 "
    "--health-check-interval 5 --save-every-n-batches 4 --eval-every-n-batches 7"
)

TOLD = ("decision", "decision_outcome", "control")

OF_THE_MACHINE = {"data_wait", "performance", "memory_pressure", "memory_leak"}
"""Anomalies of a machine that is busy at the time, whatever the run does."""


def decisions(folder: Path) -> list[object]:
    """What was decided and done, without what differs from run to run."""
    found = []
    for kind in TOLD:
        for event in events(folder, kind):
            data = {k: x for k, x in event["data"].items() if k != "seconds"}
            found.append((kind, event["step"], event["message"], data))
    for event in events(folder, "health_check"):
        data = event["data"]
        holding = sorted(set(data["holding"]) - OF_THE_MACHINE)
        found.append((event["step"], data["phase"], holding, data["decisions"]))
    return sorted(found, key=repr)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "made.py"
    path.write_text(CHECK)
    return str(path)


@pytest.fixture(scope="module")
def whole(trainings, plugin):
    return trainings.train("adaptive-whole", *DENSE, *FLAGS, "--plugins", plugin)


@mechanism(
    "killed between decisions",
    component="process",
    failure="SIGKILL in a measurement of a decision, and again in its cooldown",
    recovery="resume",
    expected="decisions, outcomes and all figures as undisturbed",
)
def test_a_killed_run_decides_what_one_that_never_stopped_decides(
    trainings, plugin, whole
) -> None:
    """Killed in the middle of a measurement, and again in a cooldown."""
    kinds = [event["data"]["action"] for event in events(whole, "decision")]
    assert kinds == ["lower_rate", "reset_moments"]
    flags = [*DENSE, *FLAGS, "--plugins", plugin, "--auto-resume"]
    for step in (10, 18):
        held = {"HOLD_AFTER": str(step)}
        running = trainings.start("adaptive-killed", *flags, **held)
        assert wait_until(reached(trainings.folder / "adaptive-killed", step), running)
        running.kill()
    killed = trainings.train("adaptive-killed", *flags)
    assert_same_run(killed, whole)
    last = {str(each): each for each in decisions(killed)}  # some are told twice
    assert list(last) == [str(each) for each in decisions(whole)]


@pytest.mark.covers("DST-16: Orchestrator decisions synchronised over ranks")
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_ranks_decide_and_act_together(trainings, plugin, whole, way) -> None:
    flags = [*DENSE, *FLAGS, "--plugins", plugin, "--batch-size", "2"]
    folder = trainings.train_on_ranks(f"adaptive-{way}", *flags, "--parallel", way)
    assert column(folder, "learning_rate") == column(whole, "learning_rate")
    assert column(folder, "loss") == pytest.approx(column(whole, "loss"), rel=1e-4)
    told = [(e["step"], e["data"]["action"]) for e in events(folder, "decision")]
    wanted = [(e["step"], e["data"]["action"]) for e in events(whole, "decision")]
    assert told == wanted
