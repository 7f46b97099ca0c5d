"""What a run goes back to, and when it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.errors import LuminaError
from lumina.state.metrics import read_metrics
from lumina.state.reader import open_checkpoint
from lumina.train.recovery.request import Request
from lumina.train.recovery.roll_back import roll_back
from lumina.train.recovery.run import Run
from lumina.train.recovery.targets import Target, in_order, on_disk


class Recovery:
    """Takes a run back when that is asked for.

    Every rank has one, and asks for the same at the same step.
    """

    def __init__(self) -> None:
        self._due: tuple[Request, Target] | None = None

    def attach(self, run: Run) -> None:
        """Let the control `rollback` reach the run, whose Program may be a new one."""
        run.program.live.rollback = lambda value: self._ask(run, value)

    def carry_out(self, run: Run) -> bool:
        """Take the run back, where that was asked for; whether it was."""
        if self._due is None:
            return False
        (asked, target), self._due = self._due, None
        roll_back(run, asked, target)
        self.attach(run)
        return True

    def _ask(self, run: Run, value: Mapping[str, Any]) -> None:
        """Choose where to go back to; all ranks ask together.

        Raises:
            LuminaError: E304 where there is nothing to go back to.
        """
        asked, ranks = Request.of(value), run.program.ranks
        run.checkpoints.wait()
        target = ranks.share(self._chosen(run, asked) if ranks.main else None)
        if target is None:
            raise LuminaError(
                "E304",
                f"neither a snapshot nor a good checkpoint lies within the last "
                f"{asked.steps:,} steps",
                "go back further, or save more often: --save-every-n-batches",
            )
        self._due = asked, target

    def _chosen(self, run: Run, asked: Request) -> Target | None:
        """The first target that is whole; None where there is none. Rank 0 only."""
        plan, step = run.program.plan, run.progress.step
        targets = on_disk(run.checkpoints.folder)
        if plan.phases:
            # The checkpoint at the end of the phase before is of another Plan.
            targets = [one for one in targets if one.step > plan.phase_begin]
        rows = read_metrics(run.checkpoints.run_dir) if asked.best else ()
        for target in in_order(targets, asked, step, rows):
            if target.checkpoint is None:
                return target
            try:
                open_checkpoint(target.checkpoint).close()
            except LuminaError as error:
                run.recorder.event(
                    "checkpoint_refused",
                    "warning",
                    error.code,
                    f"{target.checkpoint.name} was passed over: {error.message}",
                    step=target.step,
                    checkpoint=target.checkpoint.name,
                    reason=error.message,
                )
            else:
                return target
        return None
