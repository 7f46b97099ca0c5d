"""How long a run is, and when it evaluates and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.plan.decisions import Decisions, asked_for, source_of
from lumina.plan.plan import NOTHING_HELD_OUT
from lumina.quantities import counted

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.plan import Plan

DEFAULT_EPOCHS = 3.0
"""Passes over the data when neither steps nor epochs are named."""

EVALUATIONS = 10
"""Evaluations in a run, about."""

MIN_EVAL_STEPS = 50
MIN_SAVE_STEPS = 100
MAX_EVAL_BATCHES = 50


@dataclass(frozen=True)
class Done:
    """What a run has trained before it is resumed.

    Attributes:
        steps: optimizer steps.
        rows: rows of data; the steps may have had another number of them than today.
        batch: rows of a step by which an asked number of warm-up steps is meant;
            None: today's.
        begin: steps of the phases before, whose rows do not count.
    """

    steps: int
    rows: int
    batch: int | None = None
    begin: int = 0


def decide_length(
    config: Config,
    decisions: Decisions,
    rows_per_epoch: int | None,
    done: Done | None = None,
    data_kind: str | None = None,
) -> None:
    """Fix `steps` and `epochs`: the smaller limit holds.

    Epochs end where their rows are used up: a resumed run trains the rows that are
    left with today's batch, whatever batch the steps before it had. The schedule then
    follows the rows too, so that a change of the batch does not move it.

    A limit that was set for this run sets a preset's other limit aside. `epochs` of
    the Plan is a number only where it is the limit that holds.

    Args:
        config: the settings.
        decisions: takes what is decided.
        rows_per_epoch: rows of one pass over the data; None where not known.
        done: what a run that is resumed has trained.
        data_kind: the kind of data; None where there is none yet.

    Raises:
        LuminaError: E002 when the length depends on data that is not known.
    """
    steps, epochs = config.train.steps, config.train.epochs
    if asked_for(config, "steps") and not asked_for(config, "epochs"):
        epochs = None
    elif asked_for(config, "epochs") and not asked_for(config, "steps"):
        steps = None
    why_epochs = source_of(config, "epochs")
    if config.loading.iterate:
        epochs = None
    once = config.loading.iterate is False and rows_per_epoch is not None
    if once and (epochs is None or epochs > 1):
        epochs, why_epochs = 1.0, source_of(config, "iterate")
    if steps is None and epochs is None:
        epochs, why_epochs = DEFAULT_EPOCHS, "neither steps nor epochs were named"
    batch = decisions.values["global_batch_size"]
    done = done or Done(0, 0)
    if steps is not None:
        steps += done.begin
    by_epochs = None
    if epochs is not None and rows_per_epoch is not None:
        total = max(1, round(epochs * rows_per_epoch))
        by_epochs = done.steps + math.ceil(max(total - done.rows, 0) / batch)
    endless = data_kind if rows_per_epoch is None else None
    if endless and (steps is None or asked_for(config, "epochs")):
        raise LuminaError(
            "E002",
            f"data of kind {endless} has no known number of rows, so that "
            f"{epochs:g} epochs of it have no length",
            "name --steps in place of --epochs",
        )
    if steps is None and by_epochs is None:
        raise LuminaError(
            "E002",
            f"{epochs:g} epochs of data that is not known has no length",
            "name --steps, or --train-data",
        )
    if by_epochs is not None and (steps is None or by_epochs < steps):
        whole = "1 epoch" if epochs == 1 else f"{epochs:g} epochs"
        rows = counted(rows_per_epoch or 0, "row")
        passes = f"{whole} of {rows}, {batch} a step"
        offset = math.ceil(done.rows / batch) - done.steps
        if offset and done.steps > done.begin:
            passes += f" after step {done.steps:,}"
        decisions.decide("steps", by_epochs, passes)
        decisions.decide("epochs", epochs, why_epochs)
        why = "the steps before had another number of rows" if offset else "no change"
        if done.begin:
            why = f"the phase began after step {done.begin:,}"
        decisions.decide("schedule_offset", offset, why)
    else:
        decisions.decide("steps", steps, source_of(config, "steps"))
        passes = "steps are the limit"
        if endless:
            passes = f"data of kind {endless} has no known number of rows: {passes}"
        if rows_per_epoch:
            left = max((steps or 0) - max(done.steps, done.begin), 0)
            rows = done.rows + left * batch
            passes += f": {rows / rows_per_epoch:.3g} passes"
        decisions.decide("epochs", None, passes)
        why = f"the phase began after step {done.begin:,}" if done.begin else ""
        decisions.decide("schedule_offset", -done.begin, why or "steps are the limit")
    if rows_per_epoch is not None and rows_per_epoch < batch:
        decisions.warn(
            f"the data is {rows_per_epoch} row{'s' if rows_per_epoch > 1 else ''}, "
            f"less than the {batch} of one step; "
            f"use a --global-batch-size of at most {rows_per_epoch}"
        )


def length_in_words(plan: Plan) -> str:
    """At which step a run ends, and which limit decides it."""
    text = f"the run ends at step {plan.steps:,}"
    if plan.epochs is not None:
        return f"{text}, epoch {plan.epochs:g} ({plan.reasons.get('steps', 'epochs')})"
    return f"{text} ({plan.reasons.get('epochs', 'steps are the limit')})"


def decide_rhythm(
    config: Config,
    decisions: Decisions,
    eval_rows: int | None,
    done: Done | None = None,
) -> None:
    """Fix when the run, or this phase of it, evaluates, saves and prints.

    Raises:
        LuminaError: E002 where early stopping has nothing to look at.
    """
    train, run = config.train, config.run
    steps = decisions.values["steps"] - (done.begin if done else 0)
    every, why = train.eval_every_n_batches, source_of(config, "eval_every_n_batches")
    if every is None:
        every = max(MIN_EVAL_STEPS, steps // EVALUATIONS)
        why = f"about {EVALUATIONS} evaluations a run, {MIN_EVAL_STEPS} steps apart"
        if every >= steps:
            every, why = 0, f"{steps} steps are one evaluation at the end"
    if eval_rows == 0:
        every, why = 0, NOTHING_HELD_OUT
    decisions.decide("eval_every", every, why)
    _decide_eval_batches(config, decisions, eval_rows)
    patience = train.early_stopping_patience
    if patience and (every == 0 or every >= steps):
        raise LuminaError(
            "E002",
            f"early_stopping_patience {patience} has nothing to watch: {why}",
            f"use --eval-every-n-batches {max(1, steps // EVALUATIONS)}, or "
            "--early-stopping-patience 0",
        )
    decisions.decide(
        "early_stopping_patience",
        patience,
        source_of(config, "early_stopping_patience"),
    )
    every, why = run.save_every_n_batches, source_of(config, "save_every_n_batches")
    if every is None:
        every = max(MIN_SAVE_STEPS, steps // EVALUATIONS)
        why = f"a tenth of the run, at least {MIN_SAVE_STEPS} steps"
    decisions.decide("save_every", every, f"{why}; always at the end")


def _decide_eval_batches(
    config: Config, decisions: Decisions, eval_rows: int | None
) -> None:
    """How many global batches an evaluation takes: the same on any split."""
    named = config.train.eval_batches
    one = decisions.values["global_batch_size"]
    there = None if eval_rows is None else max(1, math.ceil(eval_rows / one))
    if named is not None:
        decisions.decide("eval_batches", named, source_of(config, "eval_batches"))
        return
    count = MAX_EVAL_BATCHES if there is None else min(there, MAX_EVAL_BATCHES)
    why = f"all {there}" if there == count else f"at most {MAX_EVAL_BATCHES}"
    decisions.decide("eval_batches", count, why)
