from __future__ import annotations

from typing import Any

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.duration import Done, length_in_words
from lumina.plan.plan import Plan
from lumina.plan.schedule import learning_rate_at
from lumina.plan.schedule_choice import warmup_ratio_for
from machines import plan_for


def plan(rows: int | None = 1000, eval_rows: int | None = None, **options: Any) -> Plan:
    config = Config(vocab_size=64, global_batch_size=10, **options)
    return plan_for(config, rows_per_epoch=rows, eval_rows=eval_rows)


@pytest.mark.covers("TRN-01: --epochs 3")
def test_three_epochs_when_nothing_is_named() -> None:
    made = plan()
    assert made.steps == 300
    assert made.epochs == 3
    assert "neither" in made.reasons["epochs"]


@pytest.mark.parametrize(
    ("options", "steps", "epochs"),
    [
        ({"steps": 70}, 70, None),
        ({"epochs": 2}, 200, 2),
        ({"epochs": 0.5}, 50, 0.5),
        ({"epochs": 2, "steps": 70}, 70, None),
        ({"epochs": 2, "steps": 700}, 200, 2),
    ],
)
def test_the_smaller_limit_holds(
    options: dict[str, Any], steps: int, epochs: float | None
) -> None:
    made = plan(**options)
    assert (made.steps, made.epochs) == (steps, epochs)


def test_the_last_rows_get_a_step_too() -> None:
    assert plan(rows=1001, epochs=1).steps == 101


def test_epochs_without_data_have_no_length() -> None:
    with pytest.raises(LuminaError) as caught:
        plan(rows=None, epochs=1)
    assert caught.value.code == "E002"
    assert "--steps" in caught.value.hint
    assert plan(rows=None, steps=5).steps == 5


def test_data_of_less_than_a_step_is_warned_of() -> None:
    assert any("7 rows" in text for text in plan(rows=7, steps=5).warnings)


@pytest.mark.covers("TRN-05")
@pytest.mark.parametrize(
    ("steps", "warmup"),
    [
        (100, 10),
        (9_999, 1000),
        (10_000, 500),
        (100_000, 5000),
        (100_001, 2000),
        (1, 0),
        (5, 0),
    ],
)
def test_warm_up_follows_the_length_of_the_run(steps: int, warmup: int) -> None:
    made = plan(steps=steps)
    assert made.warmup_steps == warmup
    assert f"{warmup_ratio_for(steps):g}" in made.reasons["warmup_steps"]


def test_warm_up_as_asked_for() -> None:
    assert plan(steps=200, warmup_steps=7).warmup_steps == 7
    assert plan(steps=200, warmup_ratio=0.25).warmup_steps == 50
    assert plan(steps=200, warmup_steps=7, warmup_ratio=0.25).warmup_steps == 7
    with pytest.raises(LuminaError, match="leave nothing of 20 steps"):
        plan(steps=20, warmup_steps=20)


def test_the_final_rate_and_the_decay() -> None:
    cosine = plan(steps=100, learning_rate=1e-3)
    assert cosine.min_lr == pytest.approx(1e-4)
    assert cosine.decay_steps == 90
    constant = plan(steps=100, learning_rate=1e-3, lr_scheduler="constant")
    assert (constant.min_lr, constant.decay_steps) == (1e-3, 0)
    wsd = plan(steps=100, lr_scheduler="wsd", decay_ratio=0.3)
    assert wsd.decay_steps == 30
    squeezed = plan(steps=100, lr_scheduler="wsd", decay_ratio=1.0)
    assert squeezed.decay_steps == 90
    assert plan(steps=100, min_lr=1e-6).min_lr == 1e-6


@pytest.mark.parametrize(
    ("steps", "eval_every", "save_every"),
    [(30, 0, 100), (400, 50, 100), (5000, 500, 500)],
)
def test_about_ten_evaluations_and_checkpoints(
    steps: int, eval_every: int, save_every: int
) -> None:
    made = plan(steps=steps)
    assert (made.eval_every, made.save_every) == (eval_every, save_every)


def test_rhythm_as_asked_for() -> None:
    made = plan(
        steps=30, eval_every_n_batches=3, save_every_n_batches=4, log_every_n_batches=5
    )
    assert (made.eval_every, made.save_every, made.log_every) == (3, 4, 5)


def test_an_evaluation_takes_what_there_is_and_at_most_fifty_batches() -> None:
    assert plan(steps=9, eval_rows=95).eval_batches == 10
    assert plan(steps=9, eval_rows=9000).eval_batches == 50
    assert plan(steps=9, eval_rows=9000, eval_batches=80).eval_batches == 80


def test_early_stopping_needs_something_to_watch() -> None:
    made = plan(steps=500, early_stopping_patience=2)
    assert made.early_stopping_patience == 2
    with pytest.raises(LuminaError, match="no evaluation data"):
        plan(steps=500, early_stopping_patience=2, eval_rows=0)


def resumed(batch: int, done: Done, rows: int = 100, **options: Any) -> Plan:
    config = Config(vocab_size=64, global_batch_size=batch, **options)
    return plan_for(config, rows_per_epoch=rows, done=done)


@pytest.mark.parametrize(("batch", "steps"), [(2, 42), (3, 34), (6, 26)])
def test_a_resumed_run_trains_the_rows_that_are_left(batch: int, steps: int) -> None:
    """Half of the rows are done in steps of 3; the rest come in steps of today."""
    before = resumed(3, Done(0, 0), epochs=1)
    after = resumed(batch, Done(17, 51, 3), epochs=1)
    assert (after.steps, after.epochs) == (steps, 1)
    # The rate goes on from where it stood, and the last step runs at the floor.
    stood, next_one = learning_rate_at(before, 17), learning_rate_at(after, 17)
    assert next_one == pytest.approx(stood, rel=0.08)
    assert learning_rate_at(after, steps - 1) == pytest.approx(after.min_lr)


@pytest.mark.parametrize("options", [{}, {"warmup_steps": 7}, {"lr_scheduler": "wsd"}])
def test_the_same_batch_keeps_the_same_schedule(options: dict[str, Any]) -> None:
    before = resumed(3, Done(0, 0), epochs=1, **options)
    for done in (Done(17, 51, 3), Done(34, 100, 3)):
        after = resumed(3, done, epochs=1, **options)
        assert after.steps == before.steps
        for step in range(34):
            assert learning_rate_at(after, step) == learning_rate_at(before, step)


def test_asked_warm_up_is_not_done_again_by_a_larger_batch() -> None:
    """Ten steps of 2 rows are warm-up, so that 15 such steps are past it."""
    options: dict[str, Any] = {"epochs": 1, "warmup_steps": 10}
    after = resumed(8, Done(15, 30, 2), **options)
    assert after.warmup_steps == 2
    assert learning_rate_at(after, 15) < after.learning_rate
    again = resumed(8, Done(17, 46, after.schedule_batch), **options)
    assert learning_rate_at(again, 17) == learning_rate_at(after, 17)


def test_named_steps_hold_whatever_the_batch() -> None:
    after = resumed(6, Done(17, 51, 3), steps=20)
    assert (after.steps, after.epochs, after.schedule_offset) == (20, None, 0)
    assert "0.69 passes" in after.reasons["epochs"]


def test_the_length_names_the_limit_that_decides() -> None:
    said = length_in_words(resumed(2, Done(17, 51, 3), epochs=1))
    assert "step 42, epoch 1 (1 epoch of 100 rows, 2 a step after step 17)" in said
    said = length_in_words(resumed(2, Done(0, 0), epochs=3, steps=20))
    assert "step 20 (steps are the limit: 0.4 passes)" in said
