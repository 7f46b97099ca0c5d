"""Changes of a run between two of its steps, on all ranks alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lumina.errors import LuminaError
from lumina.heartbeat import beat
from lumina.train.controls import Change
from lumina.train.controls.apply_change import program_for, revived, set_in
from lumina.train.recorder import Recorder
from lumina.train.recovery.recovery import Recovery
from lumina.train.recovery.run import Run as RecoverableRun
from lumina.train.rules import RunningRules
from lumina.train.rules.arbiter import Ruling


class Run(RecoverableRun, Protocol):
    """What a change needs of the loop."""

    recovery: Recovery


def apply_requests(run: Run) -> bool:
    """Apply what was asked for on the first rank.

    Returns:
        Whether batches have to be read anew.
    """
    beat("changing the program")
    ranks = run.program.ranks
    requests = ranks.share(run.controls.take() if ranks.main else None)
    again = False
    for request in requests:
        again |= apply(run, Change(**request))
    return again


def apply_rulings(run: Run, rulings: list[Ruling]) -> bool:
    """Apply what was granted to rules, on every rank at this step.

    Returns:
        Whether batches have to be read anew.
    """
    beat("changing the program")
    again = False
    for ruling in rulings:
        proposal = ruling.proposal
        change = Change(
            run.program.ranks.share(run.controls.next_id()),
            proposal.control,
            proposal.value,
            proposal.reason,
            "orchestrator",
            undoes=proposal.undoes,
        )
        again |= apply(
            run,
            change,
            ruling.refusal,
            rule=ruling.rule,
            evidence=dict(proposal.evidence),
            confidence=proposal.confidence,
            reversal=proposal.reversal,
        )
    return again


def apply(run: Run, change: Change, refusal: str = "", **details: Any) -> bool:
    """Apply one change, and journal it.

    Args:
        run: whose.
        change: what to apply.
        refusal: why it is not applied but only journalled; empty for none.
        details: what the event says besides the change.

    Returns:
        Whether batches have to be read anew.
    """
    change.step = run.progress.step
    before = run.program
    run.recovery.attach(run)
    try:
        if refusal:
            change.outcome = f"refused: {refusal}"
        else:
            run.program = program_for(before, run.progress, run.controls, change)
            set_in(run.program, run.progress.step, run.controls, change)
            change.outcome = "applied"
    except LuminaError as error:
        change.outcome = f"refused: {error.code} {error.message}"
        run.program = revived(before, run.controls)
    run.controls.record(change)
    run.rules.changed(change, details.get("rule"))
    run.recorder.event(
        "control",
        "info" if change.outcome == "applied" else "warning",
        None,
        _in_words(change),
        **change.to_dict(),  # its step among them
        **details,
    )
    tell_notes(run.rules, run.recorder)
    again, run.program.live.feed_again = run.program.live.feed_again, False
    return reordered(run) or run.program is not before or again


def _in_words(change: Change) -> str:
    """A change in a line. One that has several parts is described by its reason."""
    what = change.name
    if not isinstance(change.value, Mapping):
        what += f": {_short(change.old)} -> {_short(change.value)}"
    return f"{what} ({change.reason}): {change.outcome}"


def _short(value: Any) -> Any:
    """A number as it is read, not as it is kept."""
    return f"{value:.4g}" if isinstance(value, float) else value


def reordered(run: Run) -> bool:
    """Whether rows come in another order from here on; what was read is let go."""
    weights, cursor = run.program.live.source_weights, run.progress.cursor
    run.progress.cursor = dict(run.stream.reweighted(cursor, weights))
    return run.progress.cursor != dict(cursor)


def tell_notes(rules: RunningRules, recorder: Recorder) -> None:
    """Record what rules have found and decided as events."""
    for kind, note in rules.notes():
        recorder.event(kind, note.severity, None, note.text, note.step, **note.evidence)
