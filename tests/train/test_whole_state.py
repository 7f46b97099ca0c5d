"""A checkpoint holds all that a run has learned and counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.state.reader import open_checkpoint
from tiny_runs import Run, Runs, same


def _extra(run: Run) -> dict:
    with open_checkpoint(run.folder / "checkpoints" / run.checkpoints[-1]) as reader:
        return reader.meta.extra


@pytest.mark.thorough
@pytest.mark.covers(
    "CKP-02: RNG", "CKP-02: metric history", "CKP-02: orchestrator state"
)
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path, monkeypatch) -> None:
    """With random numbers in every step, evaluations, and rules that watch."""
    runs = Runs(tmp_path, monkeypatch)
    asked = {"dropout": 0.3, "eval_every_n_batches": 1}
    whole = runs.train(steps=3, **asked)
    part = runs.train(steps=1, **asked)
    place = {"run_dir": str(part.folder), "auto_resume": True}
    more = runs.train(steps=3, **asked, **place)
    for column in ("step", "loss", "eval_loss", "grad_norm", "tokens"):
        assert more.column(column) == whole.column(column), column
    for name, tensor in whole.tensors.items():
        assert same(tensor, more.tensors[name]), name
    one, other = _extra(whole), _extra(more)
    seen, again = (
        extra["rules"]["rules"]["training_health"]["memories"] for extra in (one, other)
    )
    # What the other ones have seen is time, which no two runs share.
    assert len(seen["exploding_gradients"]["logs"]) == 3
    assert seen["exploding_gradients"] == again["exploding_gradients"]
    assert (one["best_loss"], one["best_step"]) == (
        other["best_loss"],
        other["best_step"],
    )
