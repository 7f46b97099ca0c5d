"""Changing settings of Adam, and the rate by far, while a run goes on."""

from __future__ import annotations

import json

import pytest
import torch

from lumina import Trainer
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train.controls import control_named
from option_effects.adaptive import decisions
from programs import tiny_plan
from tiny_runs import Run, Runs

LARGE = {"eps": 0.1, "steps": 12, "save_every_n_batches": 4}
ADAPTIVE = {"adaptive": "on", "adaptive_cooldown_steps": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """For all tests of this file, so that they share runs."""
    with pytest.MonkeyPatch.context() as patch:
        return Runs(tmp_path_factory.mktemp("runs"), patch)


@pytest.fixture(scope="module")
def mended(runs: Runs) -> Run:
    """A run whose epsilon is far too large, and that does not stay so."""
    return runs.train(**LARGE, **ADAPTIVE)


def made(run: Run, action: str) -> dict:
    (one,) = [d for d in decisions(run) if d["action"] == action]
    return one


@pytest.mark.covers("ORC-12")
def test_a_run_with_a_large_epsilon_learns_once_it_is_mended(
    runs: Runs, mended: Run
) -> None:
    plain = runs.train(**LARGE)
    change = made(mended, "smaller_epsilon")
    assert (change["anomaly"], change["old"], change["new"]) == (
        "large_epsilon", 0.1, 1e-8,
    )  # fmt: skip
    at = change["step"] + 1
    assert mended.column("loss")[:at] == plain.column("loss")[:at]
    fallen = [run.column("loss")[0] - run.column("loss")[-1] for run in (mended, plain)]
    assert fallen[0] > 2 * max(fallen[1], 1e-3)


def test_another_epsilon_stays_after_a_resume(runs: Runs, mended: Run) -> None:
    """It is in the Plan of the checkpoint, and a resume goes on with it."""
    with open_checkpoint(latest_good(mended.folder)) as reader:
        assert reader.meta.plan["eps"] == 1e-8
    again = runs.train(
        **LARGE | {"steps": 14}, **ADAPTIVE, run_dir=None, resume=str(mended.folder)
    )
    assert json.loads((again.folder / "plan.json").read_text())["eps"] == 1e-8


def test_moments_begin_anew_with_another_beta2(runs: Runs) -> None:
    """One step later the second moment is that of one gradient, and so is the first."""
    run = runs.train(beta2=0.5, steps=3, max_grad_norm=0.0, **ADAPTIVE)
    change = made(run, "longer_second_moment")
    assert (change["old"], change["new"]) == (0.5, 0.95)
    at = change["step"] + 1
    assert run.column("learning_rate")[:at] == [3e-3] * at
    assert run.column("learning_rate")[at] == 0.0
    first, second = run.slot("exp_avg"), run.slot("exp_avg_sq")
    steps = 3 - at
    assert steps == 1
    for name, mean in first.items():
        gradient = mean / 0.1
        torch.testing.assert_close(second[name], 0.05 * gradient**2)


def test_going_back_takes_the_setting_back(runs: Runs) -> None:
    """The run is as it was before the change; it may be mended again later."""

    def on_step(trainer: Trainer, row: dict) -> None:
        if row["step"] == 5 and not asked:
            asked.append(trainer._request("eps", 1e-8, "a test"))
        if row["step"] == 8 and len(asked) == 1:
            back = {"steps": 6, "earliest": True}
            asked.append(trainer._request("rollback", back, "a test"))

    asked: list[int] = []
    plain = runs.train(**LARGE)
    config = runs.config(**LARGE)
    result = Trainer(config, on_step=on_step).train()
    run = Run(result, "")
    meta = open_checkpoint(latest_good(result.run_dir)).meta
    outcomes = {change["name"]: change["outcome"] for change in meta.journal}
    assert outcomes["eps"].startswith("taken back")
    assert meta.plan["eps"] == 0.1
    assert len(plain.rows) == len(run.rows)


@pytest.mark.parametrize("name", ["eps", "beta2"])
def test_only_optimizers_that_read_it_have_the_control(name: str) -> None:
    control = control_named(name)
    control.check_plan(tiny_plan())
    with pytest.raises(Exception, match=f"has no {name}") as caught:
        control.check_plan(tiny_plan(optimizer="sgd"))
    assert caught.value.code == "E002"  # type: ignore[attr-defined]
    for value in (-0.1, float("nan"), "small", 2 if name == "eps" else 1.0):
        assert not control.makes_sense(value)


def test_a_rate_that_is_far_too_low_is_raised(runs: Runs) -> None:
    """At once, with the schedule that follows."""
    low = {"learning_rate": 1e-5, "steps": 40, "init_std": 0.02}
    run = runs.train(**low, **ADAPTIVE)
    change = made(run, "raise_rate_far")
    assert (change["anomaly"], change["old"]) == ("low_rate", 1e-5)
    assert change["new"] == pytest.approx(1e-4)
    at = change["step"] + 1
    assert run.column("learning_rate")[:at] == [1e-5] * at
    assert run.column("learning_rate")[at:] == pytest.approx([1e-4] * (40 - at))
