"""The steps since the last checkpoint are saved before an error ends the run."""

from __future__ import annotations

from lumina.errors import LuminaError
from lumina.train.loop import Loop

NO_MORE = ("E106", "E2", "E301", "E305")
"""Codes, or how they begin, after which nothing is saved: of memory and places, whose
own answers save what can be saved; of gradients that are no longer finite; and of a
device that computes wrongly."""


def save_before_crash(loop: Loop, error: BaseException) -> None:
    """Save what was learned before an error ends the run.

    Nothing is saved where weights were being changed, so that they belong to no step;
    where gradients were not finite of late; of several processes, for the others wait
    elsewhere; or where the step has a checkpoint. Where saving fails as well, that is
    told, and the last checkpoint stands.

    Args:
        loop: that the error broke off.
        error: what ends the run. A signal, which is no `Exception`, has its own way to
            end it.
    """
    if not isinstance(error, Exception) or not _to_be_trusted(loop, error):
        return
    step, recorder = loop.progress.step, loop.recorder
    try:
        loop.settle()
        if recorder.consecutive_skips:
            return
        loop.save("emergency")
        loop.checkpoints.wait()
    except Exception as again:
        recorder.event(
            "emergency_checkpoint_failed",
            "warning",
            again.code if isinstance(again, LuminaError) else None,
            f"step {step} could not be saved before the run ended ({again}): the last "
            "checkpoint stands",
            step=step,
        )
        return
    recorder.event(
        "emergency_checkpoint",
        "warning",
        None,
        f"step {step} was saved before the run ended: --auto-resume goes on from there",
        step=step,
        reason=f"{type(error).__name__}: {error}",
    )


def _to_be_trusted(loop: Loop, error: Exception) -> bool:
    """Whether the weights are those of a whole step that has no checkpoint yet."""
    if isinstance(error, LuminaError) and error.code.startswith(NO_MORE):
        return False
    program = loop.program
    there = bool(program.optimizer.slots)  # else it was being assembled again
    whole = there and not loop.memory.guard.updating
    alone = program.ranks.world_size == 1
    return whole and alone and 0 < loop.progress.step != loop.saving.newest
