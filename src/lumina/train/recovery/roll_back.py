"""Taking a run back to an earlier step while it goes on.

Everything of the State is that of the step again, but where the offending rows are
skipped: then the data goes on behind them. The State that results is the checkpoint of
the step from then on, so that a process that is killed later goes on from there, as the
run itself does. Until it is written, the run has not been taken back.
"""

from __future__ import annotations

import copy
from pathlib import Path

from lumina.assemble.assemble import assemble
from lumina.assemble.program import Program
from lumina.assemble.source import Source
from lumina.assemble.state_parts import as_saved
from lumina.model.spec import ModelSpec
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.state.reader import open_checkpoint
from lumina.state.rollback import UNDONE
from lumina.state.state import State
from lumina.train.best import Best
from lumina.train.controls import control_named
from lumina.train.controls.apply_change import set_again
from lumina.train.recalled import recall
from lumina.train.recovery.request import Request
from lumina.train.recovery.run import Run
from lumina.train.recovery.shared_state import source_of
from lumina.train.rules.earlier import rules_state

REWARM_SHARE = 0.1
"""The share of the learning rate with which it warms up again."""


def to_checkpoint(run: Run, asked: Request, checkpoint: Path) -> State:
    """Take a run back to a checkpoint.

    All ranks call it together, when the rows so far are written.

    Args:
        run: under way.
        asked: how.
        checkpoint: its folder, which was verified.

    Returns:
        The State that the run goes on from.

    Raises:
        LuminaError: E303 for a checkpoint that cannot be read, or where the State
            cannot be written.
    """
    with open_checkpoint(checkpoint, verify="size") as reader:
        return _go_on_from(run, asked, reader.meta, reader, "checkpoint")


def to_snapshot(run: Run, asked: Request, held: State) -> State:
    """The same, back to a State of which each rank holds some tensors."""
    source = source_of(held, run.program.ranks)
    return _go_on_from(run, asked, held, source, "snapshot")


def _go_on_from(
    run: Run, asked: Request, meta: State, source: Source, kind: str
) -> State:
    """The same with the State and its tensors at hand."""
    progress, since, tokens = run.progress, run.progress.step, run.progress.tokens
    behind = dict(progress.cursor)
    extra = copy.deepcopy(meta.extra)
    plan = run.program.plan
    for change in run.controls.rewind(meta.journal, meta.step):
        plan = control_named(change.name).taken_back(plan, change)
    run.program = _assembled(run, plan, meta, source)
    set_again(run.program, run.controls)
    run.program.live.learning_rate_scale *= asked.learning_rate_factor
    if asked.rewarm_steps:
        run.program.live.rewarm = (meta.step, asked.rewarm_steps, REWARM_SHARE)
    progress.step = meta.step
    progress.tokens = meta.counters["tokens"]
    progress.skipped = meta.counters["skipped"]
    progress.cursor = behind if asked.skip_data else dict(meta.cursor)
    run.best = Best.of(extra)
    run.evaluations.owed = extra.get("evaluation_owed", False)
    run.rules.rolled_back(meta.step, since, rules_state(extra))
    state = run.state()
    run.checkpoints.go_back(as_saved(state, run.config))
    run.saving.newest = meta.step
    kept = run.recorder.take_back(meta.step, progress.skipped)
    recall(run.recorder, run.program.ranks, meta.step)
    _tell(run, asked, since, tokens, kind, kept)
    return state


def _assembled(run: Run, plan: Plan, meta: State, source: Source) -> Program:
    """The Program of the step, laid out as the present one is."""
    ranks = run.program.ranks
    spec = ModelSpec.from_dict(meta.spec)
    if spec != plan.spec:
        plan = with_spec(plan, spec)
    run.program.close()
    return assemble(plan, source, ranks=ranks, meta=meta)


def _tell(
    run: Run, asked: Request, since: int, tokens: int, kind: str, kept: Path | None
) -> None:
    """The event of a rollback."""
    step, undone = run.progress.step, tokens - run.progress.tokens
    rows = "are skipped" if asked.skip_data else "are trained on again"
    text = (
        f"taken back from step {since:,} to the {kind} of step {step:,}; the rows in "
        f"between {rows}"
    )
    if asked.learning_rate_factor != 1:
        text += (
            f", and the learning rate is {asked.learning_rate_factor:g} times it was"
        )
    if asked.rewarm_steps:
        text += f"; it warms up again in {asked.rewarm_steps:,} steps"
    if kept is not None:
        text += f"; what the metrics said of them is in {UNDONE}/{kept.name}"
    run.recorder.event(
        "rolled_back",
        "warning",
        None,
        text,
        step=step,
        from_step=since,
        target=kind,
        skip_data=asked.skip_data,
        learning_rate_factor=asked.learning_rate_factor,
        tokens_undone=undone,
        kept=None if kept is None else f"{UNDONE}/{kept.name}",
    )
