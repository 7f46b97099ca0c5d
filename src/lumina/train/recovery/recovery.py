"""What a run goes back to, and when it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.state.metrics import read_metrics
from lumina.state.reader import open_checkpoint
from lumina.train.recovery.clean_steps import CleanSteps
from lumina.train.recovery.request import Request
from lumina.train.recovery.roll_back import to_checkpoint, to_snapshot
from lumina.train.recovery.run import Run
from lumina.train.recovery.snapshots import Snapshots
from lumina.train.recovery.targets import Target, in_order, on_disk


class Recovery:
    """Takes snapshots of a run, and takes it back when that is asked for.

    Every rank has one, and asks for the same at the same step.

    Args:
        plan: of the run; None: nothing is kept in memory.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        kept = plan.recovery if plan is not None else {}
        self._every = kept.get("snapshot_every", 0)
        self._snapshots = Snapshots(kept.get("snapshots", 0))
        self._clean: CleanSteps | None = None
        if plan is not None and self._every:
            self._clean = CleanSteps(plan, kept["good_after"])
        self._due: tuple[Request, Target] | None = None

    def begin(self, run: Run) -> None:
        """Before the first step: the run can go back to where it begins."""
        self.attach(run)
        self._take(run)

    def due(self, step: int) -> bool:
        """Whether a snapshot is due after a step."""
        return bool(self._every and step % self._every == 0)

    def at_boundary(self, run: Run) -> None:
        """After a step whose row is written: a snapshot, where one is due."""
        if self._clean is not None and run.saved >= 0:
            self._clean.watch(run.saved)
        if self.due(run.progress.step):
            self._take(run)

    def see(self, run: Run, row: Mapping[str, Any]) -> None:
        """Take in a row: what enough steps without an alarm have followed is good."""
        for step in self._clean.see(row) if self._clean is not None else ():
            self._snapshots.promote(step)
            run.checkpoints.promote(step)

    def close(self) -> None:
        """Let go of the memory."""
        self._snapshots.close()

    def _take(self, run: Run) -> None:
        # Not while gradients are not finite: there is nothing to go back to.
        if self._clean is None or run.recorder.consecutive_skips:
            return
        self._snapshots.take(run)
        self._clean.watch(run.progress.step)

    def attach(self, run: Run) -> None:
        """Let the control `rollback` reach the run, whose Program may be a new one."""
        run.program.live.rollback = lambda value: self._ask(run, value)

    def carry_out(self, run: Run) -> bool:
        """Take the run back, where that was asked for; whether it was."""
        if self._due is None:
            return False
        (asked, target), self._due = self._due, None
        if target.checkpoint is None:
            held = self._snapshots.state(target.step)
            state = to_snapshot(run, asked, held)
        else:
            state = to_checkpoint(run, asked, target.checkpoint)
        if self._clean is not None:
            # The same tensors; what the run remembers of them is another thing now.
            self._snapshots.put(state, good=target.good)
            self._clean.rewind(target.step)
            self._clean.watch(target.step)
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
        targets = self._snapshots.targets() + on_disk(run.checkpoints.folder)
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
