"""Memory that fills up is noticed, and something is done before a step has no room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lumina.state.reader import open_checkpoint
from lumina.train.health.checks.memory_risk import MemoryRisk
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions import ACTIONS
from option_effects.adaptive import alarm, decisions
from programs import tiny_plan
from tiny_runs import Runs


def risks(shares: list[float]) -> list[tuple[int, float]]:
    """Step and confidence of every alarm."""
    check = MemoryRisk(tiny_plan())
    found = []
    for step, share in enumerate(shares, 1):
        alarm = check.see({"step": step, "agreed_memory_share": share})
        if alarm is not None:
            found.append((step, round(alarm.confidence, 3)))
    return found


@pytest.mark.covers("MEM-27: pre-emptive action above 85%")
def test_only_memory_that_is_high_and_grows_is_a_risk() -> None:
    """The confidence rises with what is in use, from 0.7 at 85% to 1 at 100%."""
    assert risks([0.95] * 60) == []  # full from the start, and level
    assert risks([0.5 + 0.005 * step for step in range(60)]) == []  # far from full
    assert risks([0.2] * 10 + [0.86] * 20) == []  # what the first steps take
    rising = [0.80 + 0.002 * step for step in range(100)]
    found = risks(rising)
    assert [step for step, _ in found] == [40, 50, 60, 70, 80, 90, 100]
    # The mean of the shares of steps 31 to 40 is 0.869.
    assert found[0][1] == pytest.approx(0.7 + 0.3 * 0.019 / 0.15, abs=1e-3)
    assert found[-1][1] == pytest.approx(0.7 + 0.3 * 0.139 / 0.15, abs=1e-3)


@pytest.mark.covers(
    "ORC-15: memory >85% while improving: smaller batch, checkpointing",
    "ORC-32: effective batch preserved; example 16 to 12, 8 to 6",
)
def test_a_run_at_risk_gets_smaller_forwards_and_keeps_its_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("memory_risk", 1, "warning", 0.8, "made", {})
    for rows, forwards, fewer in ((16, 3, 12), (8, 3, 6)):
        plan = tiny_plan(micro_batch_size=rows, global_batch_size=rows * forwards)
        action = ACTIONS["smaller_micro_batch"]
        proposal = action.proposal(finding, lambda _, now=rows: now, plan)
        assert proposal is not None and proposal.value == fewer
    runs = Runs(tmp_path, monkeypatch)
    base = {"steps": 15, "global_batch_size": 4, "eval_fraction": 0.0}
    with alarm("memory_risk", *range(1, 15)):
        plain = runs.train(**base)
        run = runs.train(**base, adaptive="on", adaptive_cooldown_steps=1)
    assert [(d["action"], d["new"]) for d in decisions(run)] == [
        ("clear_cache", "empty"),
        ("smaller_micro_batch", 2),
        ("smaller_micro_batch", 1),
        ("recompute_activations", "selective"),
    ]
    assert run.column("loss") == pytest.approx(plain.column("loss"), rel=1e-5)
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(run.tensors[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.covers("ORC-35: predictive checkpoint")
def test_what_cannot_be_helped_is_saved_before_it_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rung against memory that fills up; a planned checkpoint is far away."""
    runs = Runs(tmp_path, monkeypatch)
    without = ("clear_cache", "smaller_micro_batch", "recompute_activations")
    with alarm("memory_risk", 3):
        run = runs.train(steps=8, adaptive="on", adaptive_without=without)
    (one,) = decisions(run)
    assert (one["action"], one["level"], one["new"]) == ("save_checkpoint", 1, "now")
    (extra, last) = run.checkpoints
    assert last == "step-00000008" and extra in ("step-00000004", "step-00000005")
    with open_checkpoint(run.folder / "checkpoints" / extra) as reader:
        assert reader.meta.step == int(extra[-8:])
