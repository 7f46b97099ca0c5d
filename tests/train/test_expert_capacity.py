"""Adaptive expert capacity: its rule, and runs that follow it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.config import Config
from lumina.train import Trainer
from lumina.train.rules import Proposal, RunningRules
from lumina.train.rules import expert_capacity as overflow
from lumina.train.rules.earlier import rules_state
from lumina.train.rules.expert_capacity import AdaptiveCapacity
from training import final_tensors

TEXT = "The quick brown fox jumps over the lazy dog; {} times it does.\n"


def settings(tmp_path: Path, run: str, **leaves: Any) -> Config:
    data = tmp_path / "text.txt"
    data.write_text("".join(TEXT.format(n) for n in range(400)))
    return Config(
        train_data=(str(data),), run_dir=str(tmp_path / run),  # type: ignore[arg-type]
        hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1,
        seq_length=32, tokenizer_vocab_size=300, global_batch_size=4, batch_size=4,
        use_moe=True, num_experts=4, moe_intermediate_size=32, overflow="adaptive",
        learning_rate=3e-3, warmup_steps=0, eval_batches=1, device="cpu",
        precision="fp32", seed=7, save_every_n_batches=1, save_total_limit=20,
        steps=9, lr_scheduler="constant", **leaves,
    )  # fmt: skip


def changes(run: Path) -> list[tuple[int, float, float]]:
    told = [json.loads(x) for x in (run / "events.jsonl").read_text().splitlines()]
    found = [(e["step"], e["data"]) for e in told if e["kind"] == "control"]
    assert all(c["name"] == "capacity_factor" for _, c in found)
    assert all(c["source"] == "orchestrator" for _, c in found)
    return [(step, c["old"], c["value"]) for step, c in found]


def row(step: int, rate: float) -> dict[str, Any]:
    return {"step": step, "moe.dropped_fraction": [rate - 0.01, rate + 0.01]}


def shown(rules: RunningRules, rate: float, factor: float, first: int = 1) -> None:
    for step in range(first, first + overflow.WINDOW):
        rules.see(row(step, rate), lambda _: factor)


def granted(rules: RunningRules, step: int) -> list[Any]:
    return [ruling.proposal.value for ruling in rules.due(step)]


@pytest.mark.covers("MOD-19: drop rate above 5% raises, below 1% lowers")
@pytest.mark.parametrize(
    ("rate", "factor", "then"),
    [
        (0.06, 1.25, 1.5625),
        (0.03, 1.25, None),
        (0.0, 1.25, 1.125),
        (0.5, 2.5, 2.8),
        (0.5, 2.8, None),
        (0.0, 1.05, 1.0),
        (0.0, 1.0, None),
        (0.5, 4.0, None),  # asked for beyond the bounds: never moved the wrong way
        (0.0, 4.0, 3.6),
        (0.0, 0.8, None),
        (0.5, 0.8, 1.0),
    ],
)
def test_the_rule(rate: float, factor: float, then: float | None) -> None:
    rules = RunningRules([AdaptiveCapacity()])
    shown(rules, rate, factor)
    assert granted(rules, overflow.WINDOW) == []  # a row may still be on its way
    expected = [] if then is None else [then]
    assert granted(rules, overflow.WINDOW + 1) == expected
    assert granted(rules, overflow.WINDOW + 2) == []


def saved(rules: RunningRules) -> dict[str, Any]:
    again: dict[str, Any] = json.loads(json.dumps(rules.state()))
    return again


def test_a_decision_outlives_a_checkpoint() -> None:
    rules = RunningRules([AdaptiveCapacity()])
    shown(rules, 0.2, 1.25)
    again = RunningRules([AdaptiveCapacity()])
    again.load(saved(rules))
    (ruling,) = again.due(overflow.WINDOW + 1)
    assert ruling.proposal.value == 1.5625 and "20.0%" in ruling.proposal.reason


def test_a_window_outlives_a_checkpoint() -> None:
    rules = RunningRules([AdaptiveCapacity()])
    for step in range(1, overflow.WINDOW):
        rules.see(row(step, 0.2), lambda _: 1.25)
    again = RunningRules([AdaptiveCapacity()])
    again.load(saved(rules))
    again.see(row(overflow.WINDOW, 0.0), lambda _: 1.25)
    (ruling,) = again.due(overflow.WINDOW + 1)
    assert "19.6%" in ruling.proposal.reason


def test_an_earlier_checkpoint_goes_on_with_its_window_and_its_decision() -> None:
    window = {"total": 0.4, "count": 2, "factor": None, "due": 0, "rate": 0.0}
    rules = RunningRules([AdaptiveCapacity()])
    rules.load(rules_state({"overflow": window}))
    assert rules.state()["rules"] == {"expert_capacity": {"total": 0.4, "count": 2}}
    assert rules.due(10**6) == []
    decided = window | {"factor": 1.5625, "due": 51, "rate": 0.2}
    rules.load(rules_state({"overflow": decided}))
    assert rules.due(50) == []
    (ruling,) = rules.due(51)
    reason = "20.0% of assignments were dropped"
    assert ruling.proposal == Proposal("capacity_factor", 1.5625, reason)
    assert rules_state({}) == {}


@pytest.mark.thorough
@pytest.mark.covers("MOD-19: adaptive")
@pytest.mark.parametrize("stop", [4, 5])
def test_capacity_follows_the_drop_rate_and_so_does_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Windows of four steps; stopped between a decision and its effect, and after."""
    monkeypatch.setattr(overflow, "WINDOW", 4)
    monkeypatch.setattr(overflow, "TOO_MANY", 0.002)
    monkeypatch.setattr(overflow, "FEW", 0.001)
    monkeypatch.setattr(overflow, "RAISED", 1.05)
    Trainer(settings(tmp_path, "whole")).train()
    whole = changes(tmp_path / "whole")
    assert [step for step, _, _ in whole] == [5] and whole[0][1] == 1.25
    Trainer(settings(tmp_path, "parts").replace(steps=stop)).train()
    Trainer(Config(resume=str(tmp_path / "parts"), steps=9)).train()  # type: ignore[arg-type]
    assert changes(tmp_path / "parts") == whole
    one, two = (final_tensors(tmp_path / name) for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_fewer_places_are_taken_without_assembling_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "WINDOW", 2)
    monkeypatch.setattr(overflow, "FEW", 2.0)
    monkeypatch.setattr(overflow, "TOO_MANY", 3.0)
    Trainer(settings(tmp_path, "whole")).train()
    found = changes(tmp_path / "whole")
    assert found == [(3, 1.25, 1.125), (5, 1.125, 1.0125), (7, 1.0125, 1.0)]
    Trainer(settings(tmp_path, "parts").replace(steps=4)).train()
    Trainer(Config(resume=str(tmp_path / "parts"), steps=9)).train()  # type: ignore[arg-type]
    assert changes(tmp_path / "parts") == found
    one, two = (final_tensors(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_ranks_change_together(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    settings(tmp_path, "run").replace(batch_size=2, parallel="ddp").save(file)
    script = (
        "import sys; from lumina.train.rules import expert_capacity as o; "
        "o.WINDOW = 2; o.FEW, o.TOO_MANY = 2.0, 3.0; from lumina.cli.main import main; "
        f"sys.exit(main(['train', '--config-file', {str(file)!r}]))"
    )
    path = tmp_path / "train.py"
    path.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(path)], check=True, env=environment, timeout=280)
    assert [step for step, _, _ in changes(tmp_path / "run")] == [3, 5, 7]
