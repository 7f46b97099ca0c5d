"""Early stopping counts the evaluations since the best one, also over a resume."""

from __future__ import annotations

import pytest

from lumina import Trainer
from lumina.measure.held_out import HeldOut
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train import evaluations
from training import column, events, rows


@pytest.fixture
def follow(tiny_config, monkeypatch):
    """Trains with these held-out losses, one a step; returns the run's folder."""

    def train(losses, resume=None):
        config = tiny_config.replace(
            steps=9,
            eval_every_n_batches=1,
            save_every_n_batches=1,
            save_total_limit=20,
            early_stopping_patience=2,
            resume=resume,
        )
        begin = 0 if resume is None else int(resume[-8:])
        waiting = iter(losses[begin:])
        monkeypatch.setattr(
            evaluations, "held_out_loss", lambda *_, **__: HeldOut(next(waiting), 1)
        )
        return Trainer(config).train().run_dir

    return train


def best_of(run):
    with open_checkpoint(latest_good(run)) as reader:
        extra = reader.meta.extra
    return extra["best_loss"], extra["best_step"], extra["worse_evaluations"]


@pytest.mark.covers("TRN-20: --early-stopping-patience")
def test_an_improvement_clears_the_patience(follow):
    losses = [3.0, 3.5, 2.9, 3.1, 3.2, 2.0]
    run = follow(losses)
    assert column(run, "eval_loss") == losses[:5]
    assert best_of(run) == (2.9, 3, 2)
    (end,) = events(run, "run_finished")
    assert "no better evaluation in 2" in end["message"]


@pytest.mark.covers("TRN-20: --early-stopping-patience")
def test_the_best_and_the_patience_outlive_a_resume(follow):
    """Stopped after one worse evaluation: a second one ends the resumed run."""
    losses = [3.0, 3.5, 3.2, 2.0, 2.0, 2.0]
    run = follow(losses)
    assert len(rows(run)) == 3
    checkpoint = run / "checkpoints" / "step-00000002"
    assert best_of(run) == (3.0, 1, 2)
    follow(losses, resume=str(checkpoint))
    assert column(run, "eval_loss") == losses[:3]
    assert best_of(run) == (3.0, 1, 2)
    assert latest_good(run).name == "step-00000003"
