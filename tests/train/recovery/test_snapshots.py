"""Snapshots in memory: what goes back to them, which stay, and which are good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina import Config, Trainer
from lumina.errors import LuminaError
from lumina.state.reader import open_checkpoint
from lumina.state.state import State
from lumina.train.recovery.clean_steps import CleanSteps
from lumina.train.recovery.request import Request
from lumina.train.recovery.snapshots import Snapshots
from lumina.train.recovery.targets import Target, in_order
from machines import cpu, plan_for
from programs import tiny_plan
from training import checkpoints, events, rows, whole_lines

SLOWER = pytest.mark.thorough
SHOWN = ("step", "tokens", "loss", "grad_norm", "learning_rate", "epoch", "skipped")


def shown(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.get(key) for key in SHOWN) for row in found]


def go_back(config: Config, at: int, **value: Any) -> Path:
    asked = []

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == at and not asked:
            asked.append(trainer.controls.request("rollback", value, "it went wrong"))

    return Trainer(config, on_step=on_step).train().run_dir


@pytest.mark.covers("CKP-11: rollback manual")
@pytest.mark.parametrize("kind", ["dense", pytest.param("all", marks=SLOWER)])
def test_a_run_goes_back_to_a_snapshot(tiny_config: Config, kind: str) -> None:
    """To the bit, and a run that is resumed from what it wrote goes on as it does."""
    more: dict[str, Any] = {}
    if kind == "all":
        more = {"use_moe": True, "num_experts": 4, "ema_decay": 0.9, "dropout": 0.1}
        more |= {"gradient_steps": ("zclip", "noise", "robust_clip")}
    config = tiny_config.replace(snapshot_every=3, save_total_limit=9, **more)
    run = go_back(config, at=7, steps=4, skip_data=False, rewarm_steps=0)
    undone = whole_lines(run / "undone" / "1" / "metrics.jsonl")
    assert events(run, "rolled_back")[0]["data"]["target"] == "snapshot"
    assert [row["step"] for row in undone] == [7, 8]
    assert shown(rows(run)[6:8]) == shown(undone)
    there = run / "checkpoints" / "step-00000006"
    assert checkpoints(run)[0] == there.name
    whole = shown(rows(run))
    Trainer(config.replace(resume=str(there), run_dir=None)).train()
    assert shown(rows(run)) == whole


def state(step: int) -> State:
    return State(counters={"step": step}, extra={"a": [step]})


def test_one_that_is_good_stays_and_one_that_may_come_to_be() -> None:
    held = Snapshots(3)

    class Run:
        class program:
            copies_beside_steps = False

        def __init__(self, step: int) -> None:
            self.step = step

        def state(self, copies: Any = None) -> State:
            return state(self.step)

    def steps() -> list[tuple[int, bool]]:
        return [(target.step, target.good) for target in held.targets()]

    for step in (10, 20, 30, 40, 50):
        held.take(Run(step))  # type: ignore[arg-type]
    assert steps() == [(10, False), (40, False), (50, False)]
    held.promote(10)
    for step in (60, 70):
        held.take(Run(step))  # type: ignore[arg-type]
    assert steps() == [(10, True), (40, False), (70, False)]
    held.promote(40)
    assert steps() == [(40, True), (70, False)]
    held.put(state(60), good=True)
    assert steps() == [(40, True), (60, True)]
    two = Snapshots(2)
    for step in (10, 20):
        two.take(Run(step))  # type: ignore[arg-type]
    two.promote(10)
    two.take(Run(30))  # type: ignore[arg-type]
    assert [target.step for target in two.targets()] == [10, 20]


def test_the_beginning_stays_until_it_is_let_go_of() -> None:
    held = Snapshots(3)
    for step in (0, 10, 20):
        held.put(state(step))
    held.promote(10)
    held.promote(20)
    assert [target.step for target in held.targets()] == [0, 20]
    held.forget_begin()
    assert [target.step for target in held.targets()] == [20]


def test_what_a_snapshot_remembers_does_not_change_with_the_run() -> None:
    held, now = Snapshots(2), state(5)
    held.put(now)
    now.extra["a"].append(6)
    assert held.state(5).extra == {"a": [5]}


def test_known_to_be_good_after_steps_without_an_alarm() -> None:
    clean = CleanSteps(tiny_plan(steps=400, warmup_steps=0), 10)
    good: dict[int, int] = {}
    clean.watch(20)
    for step in range(1, 81):
        loss = 3.0 + 0.01 * (step % 7)
        bad = step in (25, 50)
        row = {
            "step": step,
            "loss": float("nan") if bad else loss,
            "grad_norm": float("nan") if bad else 1.0 + 0.01 * (step % 5),
            "skipped": (step >= 25) + (step >= 50),
            "learning_rate": 1e-3,
        }
        if step == 45:
            clean.watch(45)
        for found in clean.see(row):
            good[found] = step
    # The alarm of step 25 and that of 50 began the counts of 20 and 45 anew.
    assert 35 <= good[20] < 50 and good[45] >= 60


@pytest.mark.thorough
def test_the_newest_good_checkpoint_stays(tiny_config: Config) -> None:
    """One behind it is not yet good when its turn to go comes."""
    config = tiny_config.replace(
        steps=12,
        snapshot_every=6,
        known_good_after=3,
        save_every_n_batches=4,
        save_total_limit=1,
        eval_every_n_batches=0,
    )
    run = Trainer(config).train().run_dir
    found = {}
    for name in checkpoints(run):
        with open_checkpoint(run / "checkpoints" / name) as reader:
            found[reader.meta.step] = "good" in reader.manifest.kinds
    assert found == {8: True, 12: False}


def test_snapshots_are_planned_within_host_memory() -> None:
    """A quarter of it at most; without room they are refused, or left out."""
    config = Config(preset="debug", steps=400, snapshot_every=10, snapshots_kept=4)
    plan = plan_for(config, cpu())
    assert plan.recovery == {"snapshot_every": 10, "snapshots": 4, "good_after": 40}
    assert "in host memory" in plan.reasons["recovery"]
    size = sum(
        plan.memory[name]
        for name in ("weights", "master_weights", "optimizer", "ema", "base_weights")
    )
    room = cpu(host_memory_bytes=int(4 * 2.5 * size))
    assert plan_for(config, room).recovery["snapshots"] == 2
    small = cpu(host_memory_bytes=int(4 * 1.9 * size))
    with pytest.raises(LuminaError) as caught:
        plan_for(config, small)
    assert caught.value.code == "E202" and "snapshot" in caught.value.message
    own = Config(preset="debug", steps=4000, adaptive="on")
    assert plan_for(own, cpu()).recovery["snapshot_every"] == 100
    assert not plan_for(own, small).recovery
    assert "no snapshots" in plan_for(own, small).reasons["recovery"]
    assert not plan_for(own.replace(adaptive="off"), cpu()).recovery


def test_what_is_gone_back_to_first() -> None:
    """The newest good one, a snapshot before a checkpoint; of others the oldest."""
    there = Path("checkpoint")
    targets = [
        Target(10, there, True), Target(20, there, True), Target(20, None, True),
        Target(30, None), Target(40, there), Target(50, None), Target(2, None, True),
    ]  # fmt: skip
    found = in_order(targets, Request(45), 50, ())
    assert [(one.step, one.checkpoint) for one in found] == [
        (20, None), (20, there), (10, there), (30, None), (40, there),
    ]  # fmt: skip
    rows = [
        {"step": 30, "loss": 2.0}, {"step": 40, "loss": 1.0},
        {"step": 10, "loss": 3.0, "eval_loss": 3.0},
    ]  # fmt: skip
    best = in_order(targets, Request(45, best=True), 50, rows)
    assert [one.step for one in best][:3] == [10, 40, 30]
    again = in_order(targets, Request(50, earliest=True), 50, rows)
    assert [one.step for one in again][:2] == [2, 10]
