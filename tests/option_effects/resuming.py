"""Options that change a run as it is gone on with."""

from __future__ import annotations

import pytest

from option_effects import shows
from tiny_runs import Run, Runs, same
from tiny_runs import seen as watched

_BASE = {"eval_fraction": 0.0, "save_every_n_batches": 0}


def _go_on(runs: Runs, begun: Run, **leaves: object) -> Run:
    place = {"run_dir": str(begun.folder), "auto_resume": True}
    return runs.train(**(_BASE | place | leaves))


@pytest.mark.covers("CKP-10: reset_optimizer")
@shows("reset_optimizer")
def optimizer_anew(runs: Runs) -> None:
    """The first step after it has moments of that one gradient."""
    kept, reset = (runs.train(**_BASE, steps=2) for _ in range(2))
    more = _go_on(runs, kept, steps=3)
    anew = _go_on(runs, reset, steps=3, reset_optimizer=True)
    assert more.column("loss") == anew.column("loss"), "the weights stay"
    for slot in ("exp_avg", "exp_avg_sq"):
        one, other = more.slot(slot), anew.slot(slot)
        assert any(not same(one[name], other[name]) for name in one)
    # From zero: (0.1 g)^2 / 0.01 and 0.05 g^2 / 0.05, of the same gradient.
    for name, squares in anew.slot("exp_avg_sq").items():
        moved = anew.slot("exp_avg")[name]
        assert (moved**2 / 0.1**2).allclose(squares / 0.05, rtol=1e-3)
    assert "begins_anew" in [event["kind"] for event in anew.events]
    runs.refused("E002", reset_optimizer=True)


@pytest.mark.covers("CKP-10: reset_scheduler")
@shows("reset_scheduler")
def schedule_anew(runs: Runs) -> None:
    """The rate falls anew, and goes on falling from there when resumed once more."""
    falling = {"lr_scheduler": "linear", "min_lr": 0.0, "learning_rate": 1e-3}
    begun = runs.train(**_BASE, **falling, steps=4)
    anew = _go_on(runs, begun, **falling, steps=8, reset_scheduler=True)
    rates = anew.column("learning_rate")[4:]
    assert rates == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0.0], abs=1e-12)
    longer = _go_on(runs, begun, **falling, steps=12)
    rates = longer.column("learning_rate")[8:]
    assert rates == pytest.approx([3.75e-4, 2.5e-4, 1.25e-4, 0.0], abs=1e-12)
    kinds = [event["kind"] for event in longer.events]
    assert kinds.count("begins_anew") == 1, "a later resume resets nothing again"
    # Back before the reset, it no longer holds.
    before = runs.train(**(_BASE | falling | {"save_every_n_batches": 2}), steps=4)
    _go_on(runs, before, **falling, steps=6, reset_scheduler=True)
    first = {"resume": str(before.folder / "checkpoints" / "step-00000002")}
    back = _go_on(runs, before, **falling, **first, steps=5)
    rates = back.column("learning_rate")[2:]
    assert rates == pytest.approx([4e-4, 2e-4, 0.0], abs=1e-12)
    assert "edit_dropped" in [event["kind"] for event in back.events]


@pytest.mark.covers("CKP-10: reset_metrics")
@shows("reset_metrics")
def best_anew(runs: Runs) -> None:
    """With a rate that spoils the model, the first evaluation is the best again."""
    judged = {"eval_fraction": 0.1, "eval_every_n_batches": 2, "save_total_limit": 9}
    best = []
    for reset in (False, True):
        begun = runs.train(**judged, steps=4)
        more = _go_on(
            runs,
            begun,
            **judged,
            steps=6,
            learning_rate=0.5,
            max_grad_norm=0.0,
            reset_metrics=reset,
        )
        assert more.column("eval_loss")[2] > more.column("eval_loss")[1]
        best.append((more.folder / "checkpoints" / "BEST").read_text().strip())
    assert best == ["step-00000004", "step-00000006"]


@pytest.mark.covers("CKP-10: override_learning_rate", "CKP-10: --modify-config")
@shows("override_learning_rate", "modify_config")
def other_settings(runs: Runs) -> None:
    begun = runs.train(**_BASE, steps=1)
    more = _go_on(runs, begun, steps=2, override_learning_rate=1e-4)
    assert more.column("learning_rate") == [3e-3, 1e-4]
    asked = {"modify_config": ("lr=2e-4", "save_every_n_batches=1")}
    more = _go_on(runs, begun, steps=4, **asked)
    assert more.column("learning_rate")[2:] == [2e-4, 2e-4]
    assert more.checkpoints[-2:] == ["step-00000003", "step-00000004"]
    twice = {"override_learning_rate": 1e-4, "modify_config": ("lr=2e-4",)}
    runs.refused("E002", resume=str(begun.folder), run_dir=None, **twice)
    runs.refused("E005", auto_resume=True, modify_config=("lr",))


@pytest.mark.covers("CKP-10: override_batch_size")
@shows("override_batch_size")
def smaller_batches(runs: Runs) -> None:
    """The step has as many rows as before, in more parts."""
    seen: list[int] = []

    around = watched(lambda _, batches: len(batches.micro_batches), into=seen)
    begun = runs.train(**_BASE, steps=1)
    place = {"run_dir": str(begun.folder), "auto_resume": True}
    runs.train(around, **_BASE, **place, steps=2, override_batch_size=1)
    assert seen == [4]
