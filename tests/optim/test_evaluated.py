"""Which weights evaluation, generation and export use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble, capture
from lumina.config import Config
from lumina.infer.evaluate import evaluate
from lumina.state.weights import open_weights
from lumina.train import Trainer
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan
from tiny_runs import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def test_schedule_free_training_gives_its_mean_away(runs: Runs) -> None:
    """Without being asked: to evaluation, to whatever reads weights, and to a child."""
    run = runs.train(optimizer="schedule_free", steps=4)
    weights = open_weights(run.folder)
    assert "averaged weights" in weights.description and not weights.averages_too
    for name, mean in run.slot("ema").items():
        assert torch.equal(weights.source.tensor(name), mean)
        y, z = run.tensors[name], run.slot("z")[name]
        torch.testing.assert_close(mean, y / 0.9 - z / 9, rtol=1e-4, atol=1e-6)
        assert not torch.equal(mean, y), name
    found = evaluate(run.folder, [str(runs.data)])
    plain = runs.train(optimizer="adamw", steps=4)
    assert found.loss != evaluate(plain.folder, [str(runs.data)]).loss
    child = runs.train(init_from=str(run.folder), steps=1, learning_rate=1e-9)
    for name, mean in run.slot("ema").items():
        torch.testing.assert_close(child.tensors[name], mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ema_decay", 0.5),
        ("swa_start", 0.5),
        ("lookahead_steps", 2),
        ("preserve_base_knowledge", True),
    ],
)
def test_one_thing_says_what_is_evaluated(runs: Runs, option: str, value: Any) -> None:
    message = runs.refused("E002", optimizer="schedule_free", **{option: value})
    assert option in message and "schedule_free" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"swa_start": 0.1},
        {"lookahead_steps": 2},
        {"optimizer_groups": ("role:matrix=schedule_free",)},
    ],
)
def test_it_goes_on_after_a_resume(changes: dict[str, Any], tmp_path: Path) -> None:
    stream = stream_of(conversations(tmp_path))
    plan = tiny_plan(True, **changes)
    straight = assemble(plan)
    whole, done = take_steps(straight, stream, 6)
    program = assemble(plan)
    first, progress = take_steps(program, stream, 3)
    program = reassembled(program, progress, plan)
    then, progress = take_steps(program, stream, 3, progress)
    assert torch.equal(torch.cat([first, then]), whole)
    one, two = capture(straight, done), capture(program, progress)
    for kind, held in one.optimizer.items():
        for name, tensor in held.items():
            assert torch.equal(two.optimizer[kind][name], tensor), (kind, name)
    assert one.optimizer["ema"]


def test_a_real_run_is_resumed_with_slow_weights(runs: Runs) -> None:
    run = runs.train(steps=3, lookahead_steps=2)
    Trainer(Config(resume=str(run.folder), steps=5)).train()
    whole = runs.train(steps=5, lookahead_steps=2)
    for name, tensor in (whole.tensors | whole.slot("ema")).items():
        assert torch.equal((run.tensors | run.slot("ema"))[name], tensor), name
