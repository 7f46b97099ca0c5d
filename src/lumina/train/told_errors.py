"""What becomes of the errors of compressed gradients on other ranks than before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.assemble.gradient_errors import NAME, slot_of

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.assemble.source import Source
    from lumina.state.state import State
    from lumina.train.recorder import Recorder


def tell_errors(
    meta: State, source: Source, program: Program, recorder: Recorder
) -> None:
    """Write the event `gradient_errors` where they are not each rank's own any more.

    Args:
        meta: the State that the run goes on from.
        source: its tensors.
        program: that goes on.
        recorder: takes the event.
    """
    before = int(meta.extra.get(NAME, 0))
    if not before or not source.optimizer_names(slot_of(0)):
        return
    now = program.mesh.tokens.size
    if program.way.low_rank is None:
        text = (
            f"gradients are exchanged whole from here on: the errors of {before} "
            "processes, which gradient_compression would have made good, are let go"
        )
    elif now != before:
        text = (
            f"each of {now} processes begins with the mean of the gradient errors of "
            f"{before}: what was not exchanged yet stays the same on the average"
        )
    else:
        return
    recorder.event(
        "gradient_errors", "info", None, text, step=meta.step, before=before, now=now
    )
