"""The evaluations of a run between two of its steps, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from lumina.train.changing import tell_notes
from lumina.train.controls import control_named
from lumina.train.end_of_run import EndOfRun
from lumina.train.recovery.run import Run as RecoverableRun

Row = dict[str, Any]
"""A row of metrics.jsonl."""


class Run(RecoverableRun, Protocol):
    """What an evaluation needs of the loop; attributes as of `Loop`."""

    end: EndOfRun


def evaluate(run: Run, write_row: Callable[[], None] | None = None) -> Row:
    """Evaluate after the newest step. All ranks call it together.

    Args:
        run: between two steps; nothing of it is still on its way from the device.
        write_row: writes the row of that step without an evaluation, should it fail;
            None: the row is written already.

    Returns:
        What is added to the row of the step. Nothing where the run is being stopped:
        the evaluation is made up for when the run goes on.
    """
    outcome, step, evaluations = None, run.progress.step, run.evaluations
    if not run.end.interrupted:
        evaluations.owed = True
        try:
            outcome = evaluations.judge(run.program, step, run.end.is_asked)
        except Exception:
            if write_row is not None:
                write_row()
            raise
    evaluations.owed = outcome is None
    if outcome is None:
        run.end.interrupt()
        return {}
    run.rules.see_evaluation(step, outcome.metrics, values_after(run, step))
    tell_notes(run.rules, run.recorder)
    return evaluations.found(run.program, outcome)


def evaluate_out_of_turn(run: Run) -> Row:
    """Evaluate a step after which none is due, and add that to its written row.

    Returns:
        What was added; nothing where the run holds out no data, or was evaluated
        after this step in turn.
    """
    step = run.progress.step
    if run.evaluations.batches is None or run.evaluations.due(run.plan, step):
        return {}
    found = evaluate(run)
    if found:
        run.recorder.amend(step, found)
    return found


def make_up_evaluation(run: Run) -> Row:
    """Evaluate the step whose evaluation a signal broke off in an earlier process.

    Returns:
        What was added to the row of the step; nothing where none is owed.
    """
    step = run.progress.step
    if not run.evaluations.owed or not run.evaluations.due(run.plan, step):
        return {}
    found = evaluate(run)
    if found:
        run.recorder.amend(step, found)
    return found


def keep_best(run: Run, row: Row) -> bool:
    """Compare an evaluation with the best so far; end a run that has waited too long.

    Args:
        run: of the evaluation.
        row: of its step.

    Returns:
        Whether it is the best so far, and the run is to keep its model.
    """
    improved = run.best.judge(
        row,
        run.progress.step,
        run.config["best_metric"],
        run.config["best_is"],
        run.config["early_stopping_min_improvement"],
    )
    patience = run.plan.early_stopping_patience
    if patience and run.best.worse >= patience:
        run.end.by_patience(patience)
    return improved and bool(run.config["track_best_model"])


def values_after(run: Run, step: int) -> Callable[[str], Any]:
    """Gives the value of a control, by its name, after `step` steps."""
    program = run.program
    return lambda name: control_named(name).now(program, step)
