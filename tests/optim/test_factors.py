"""Learning rates and decays of some tensors, by pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.config import Config
from lumina.train import Trainer
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan
from tiny_runs import Runs

FACTORS: dict[str, Any] = {
    "group_learning_rates": ("role:embedding=0.1", "*.attention.*=3"),
    "group_weight_decays": ("role:embedding=0", "*.feedforward.*=2"),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "sgd"])
def test_each_tensor_moves_and_decays_by_its_factors(name: str, tmp_path: Path) -> None:
    """A first step by the factors is the first step without, scaled."""
    stream = stream_of(conversations(tmp_path))
    plan = tiny_plan(True, optimizer=name, weight_decay=0.0, warmup_steps=0)
    before = {slot.name: slot.master.clone() for slot in assemble(plan).optimizer.slots}
    moved = []
    for changes in ({}, FACTORS, FACTORS | {"weight_decay": 0.5}):
        program = assemble(plan.replace(**changes))
        take_steps(program, stream, 1)
        moved.append(
            {s.name: s.master - before[s.name] for s in program.optimizer.slots}
        )
        decays = {slot.name: slot.decay for slot in program.optimizer.slots}
    for key, alone in moved[0].items():
        rate = 0.1 if "embed" in key else 3.0 if ".attention." in key else 1.0
        decay = 0.0 if "embed" in key else 2.0 if ".feedforward." in key else 1.0
        near = {"rtol": 1e-3, "atol": 3e-5}
        torch.testing.assert_close(moved[1][key], rate * alone, **near)
        decayed = 3e-3 * rate * 0.5 * decay * decays[key] * before[key]
        torch.testing.assert_close(moved[2][key], rate * alone - decayed, **near)


def test_a_resumed_run_keeps_them_and_may_change_them(tmp_path: Path) -> None:
    stream = stream_of(conversations(tmp_path))
    plan = tiny_plan(True, optimizer_groups=("role:expert=adafactor",), **FACTORS)
    whole, _ = take_steps(assemble(plan), stream, 5)
    program = assemble(plan)
    first, progress = take_steps(program, stream, 3)
    program = reassembled(program, progress, plan)
    counts = [
        float(member.optimizer.scalars()["steps"])
        for member in program.optimizer.members.values()
    ]
    assert counts == [3.0] * 5
    then, progress = take_steps(program, stream, 2, progress)
    assert torch.equal(torch.cat([first, then]), whole)
    for changes in ({"group_learning_rates": ()}, {"group_weight_decays": ("*=3",)}):
        program = reassembled(program, progress, program.plan.replace(**changes))
        for member in program.optimizer.members.values():
            assert member.optimizer.scalars()["steps"] == 5.0


def test_a_real_run_is_resumed_with_them(runs: Runs) -> None:
    factors = {"group_learning_rates": ("role:embedding=0.1",)}
    run = runs.train(steps=2, **factors)
    Trainer(Config(resume=str(run.folder), steps=4)).train()
    whole = runs.train(steps=4, **factors)
    for name, tensor in whole.tensors.items():
        assert torch.equal(run.tensors[name], tensor), name


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("group_learning_rates", "role:embedding", "cannot be 'role:embedding'"),
        ("group_learning_rates", "role:embedding=fast", "=fast'"),
        ("group_learning_rates", "role:embedding=-1", "=-1'"),
        ("group_weight_decays", "role:embedding=inf", "=inf'"),
        ("group_learning_rates", "*.convolution.*=2", "matches no parameter"),
        ("group_learning_rates", "role:embedding=0", "train nothing"),
        ("group_weight_decays", "*.attention.q.*=2", "share one matrix in memory"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    runs: Runs, option: str, text: str, says: str
) -> None:
    message = runs.refused("E005", **{option: (text,)})
    assert says in message and option in message
