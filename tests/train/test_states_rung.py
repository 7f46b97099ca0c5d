"""States that leave the device while a run trains."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_runs
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train import Trainer
from lumina.train.controls.layout import OptimizerStatesIn
from lumina.train.controls.weights_in import WeightsIn
from lumina.train.memory_ladder import recovery
from lumina.train.memory_ladder.rung import rungs
from lumina.train.memory_ladder.rungs import optimizer_states_host, weights_host
from machines import cpu, gpu, plan_for
from tiny_runs import Program, Runs, seen

GIB = 2**30


def rung() -> Any:
    return next(one for one in rungs() if one.name == "optimizer_states_host")


def plan_on(machine: Any) -> Plan:
    return plan_for(Config.resolve(preset="dense_3b"), machine)


def test_a_gpu_without_room_moves_the_states_to_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [one.name for one in rungs()[-2:]] == [rung().name, "weights_host"]
    plan = plan_on(gpu())
    have = [64 * GIB]
    monkeypatch.setattr(optimizer_states_host, "host_memory_bytes", lambda: have[0])
    attempt = rung().next(plan, cleared=True)
    assert (attempt.control, attempt.value) == ("optimizer_states_in", "host")
    beside = OptimizerStatesIn().edit(plan, attempt.value)
    assert beside.elsewhere["host"] > 30 * GIB
    assert beside.memory["bound"] < plan.memory["bound"] - 20 * GIB
    assert rung().next(beside, cleared=True) is None
    assert rung().known_to_fit(plan, "host") == "host"
    have[0] = 40 * GIB
    assert rung().next(plan, cleared=True) is None
    assert rung().next(plan_on(cpu(memory_bytes=96 * GIB)), cleared=True) is None


def test_then_weights_leave_the_gpu_that_do_not_train_or_train_beside_their_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = rungs()[-1]  # it costs most time
    have = [64 * GIB]
    monkeypatch.setattr(weights_host, "host_memory_bytes", lambda: have[0])
    peft = {"use_peft": True, "init_from": "base", "precision": "bf16"}
    base = Config.resolve(preset="dense_3b")
    plan = plan_for(base.replace(**peft), gpu())
    attempt = last.next(plan, cleared=True)
    assert (attempt.control, attempt.value) == ("weights_in", "host")
    beside = WeightsIn().edit(plan, attempt.value)
    assert beside.memory["bound"] < plan.memory["bound"] - 4 * GIB
    assert beside.elsewhere["host"] > 4 * GIB
    assert last.next(beside, cleared=True) is None
    assert last.known_to_fit(plan, "host") == "host"
    have[0] = 4 * GIB
    assert last.next(plan, cleared=True) is None
    have[0] = 128 * GIB
    everything = plan_on(gpu())
    assert last.next(everything, cleared=True) is None
    states = OptimizerStatesIn().edit(everything, "host")
    assert last.next(states, cleared=True).value == "host"
    averaged = plan_for(base.replace(ema_decay=0.9), gpu())
    assert last.next(OptimizerStatesIn().edit(averaged, "host"), cleared=True) is None


@pytest.mark.covers("MEM-16: every 1000 steps")
def test_unused_memory_goes_back_every_so_many_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied: list[int] = []
    now = [0]
    monkeypatch.setattr(recovery, "empty_cache", lambda: emptied.append(now[0]))
    for every in (1000, 0):
        ladder = recovery.MemoryRecovery(clear_every=every)
        for now[0] in range(1, 3001):
            ladder.after_step(now[0])
    assert emptied == [1000, 2000, 3000]


@pytest.mark.parametrize(
    ("changes", "value", "code", "words"),
    [
        ({}, "host", "E002", "states are on the device"),
        ({"use_mor": True}, "host", "E002", "passed several times"),
        ({"device": "cpu"}, "host", "E003", "in host memory already"),
    ],
)
def test_weights_that_cannot_leave_stay(
    changes: dict[str, Any], value: str, code: str, words: str
) -> None:
    machine = cpu(memory_bytes=96 * GIB) if changes.pop("device", "") else gpu()
    plan = plan_for(Config.resolve(preset="dense_3b").replace(**changes), machine)
    with pytest.raises(LuminaError) as caught:
        WeightsIn().edit(plan, value)
    assert caught.value.code == code and words in caught.value.message


@pytest.mark.thorough
def test_a_run_goes_on_as_before_when_its_states_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    places: list[str] = []

    def move(trainer: Any, row: dict[str, Any]) -> None:
        if row["step"] == 2:
            trainer.controls.request("optimizer_states_in", "disk", "for a test")

    def place(program: Program, _: object) -> str:
        return program.plan.optimizer_states_in

    plain = runs.train(steps=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_runs, "Trainer", partial(Trainer, on_step=move))
        moved = runs.train(seen(place, places), steps=6)
    assert places[0] == "device" and places[-1] == "disk"
    assert [r["loss"] for r in moved.rows] == [r["loss"] for r in plain.rows]
    for name, value in plain.tensors.items():
        assert torch.equal(value, moved.tensors[name]), name


def test_the_host_is_no_other_place_for_a_run_on_it() -> None:
    with pytest.raises(LuminaError) as caught:
        OptimizerStatesIn().edit(plan_on(cpu(memory_bytes=96 * GIB)), "host")
    assert caught.value.code == "E003"
