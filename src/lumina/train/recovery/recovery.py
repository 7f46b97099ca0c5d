"""What a run goes back to, and when it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.state.metrics import read_metrics
from lumina.state.reader import open_checkpoint
from lumina.train.recovery.clean_steps import CleanSteps
from lumina.train.recovery.repeat import ranks_that_differ
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
        self._repeat_every = kept.get("repeat_every", 0)
        self._corrupted = self._marks = False
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
        return self._marks or bool(self._every and step % self._every == 0)

    def at_boundary(self, run: Run) -> None:
        """After a step whose row is written: a snapshot, where one is due."""
        if self._clean is not None and run.saving.newest >= 0:
            self._clean.watch(run.saving.newest)
        if run.progress.step * 2 > run.plan.steps:
            self._snapshots.forget_begin()
        if self.due(run.progress.step):
            self._take(run)

    def see(self, run: Run, row: Mapping[str, Any]) -> None:
        """Take in a row: what enough steps without an alarm have followed is good."""
        for step in self._clean.see(row) if self._clean is not None else ():
            self._snapshots.promote(step)
            run.checkpoints.promote(step)

    def close(self) -> None:
        """Release the memory."""
        self._snapshots.close()

    def _take(self, run: Run) -> None:
        if self._clean is None or (self._clean.recent_alarm and not self._marks):
            return
        step, marks, self._marks = run.progress.step, self._marks, False
        self._snapshots.take(run, marks)
        self._clean.watch(step)

    def attach(self, run: Run) -> None:
        """Let controls reach the run, whose Program may be a new one."""
        run.program.live.rollback = lambda value: self._ask(run, value)
        run.program.live.snapshot = self._mark
        run.program.live.save = run.saving.agree

    def _mark(self) -> None:
        """Take a snapshot after the next step, whatever the checks say of it."""
        self._marks = True

    @property
    def asked(self) -> bool:
        """Whether the run is to be taken back before its next step."""
        return self._due is not None

    def is_corrupted(self, run: Run, batches: StepBatches) -> bool:
        """Check the device before a step, where that is due; all ranks call it.

        Returns:
            Whether it computes wrongly, and the run is to be taken back.

        Raises:
            LuminaError: E305 where it does so for the second time, or where there is
                nothing that is known to be good.
        """
        step, every = run.progress.step, self._repeat_every
        if not every or (step + 1) % every or not batches.loss_tokens:
            return False
        wrong = ranks_that_differ(run.program, batches, step)
        if not wrong:
            return False
        text = f"the gradients of step {step + 1:,}, computed twice, differ"
        if run.plan.world_size > 1:
            text += f" on rank {', '.join(map(str, wrong))}"
        run.recorder.event(
            "silent_corruption", "critical", "E305", text, step=step, ranks=wrong
        )
        asked = Request(max(step, 1), skip_data=False)
        target = None if self._corrupted else self._agreed(run, asked, good=True)
        if target is None:
            why = "there is nothing known to be good to go back to"
            if self._corrupted:
                why = "it is the second time"
            raise LuminaError(
                "E305",
                f"{text}; {why}",
                "leave this device out (--cuda-ids), test it with --preflight, and go "
                "on elsewhere from a checkpoint of before",
            )
        self._corrupted, self._due = True, (asked, target)
        return True

    def carry_out(self, run: Run) -> None:
        """Take the run back; the rows so far are written."""
        assert self._due is not None
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

    def _ask(self, run: Run, value: Mapping[str, Any]) -> None:
        """Choose where to go back to; all ranks ask together.

        Raises:
            LuminaError: E304 where there is nothing to go back to.
        """
        asked = Request.of(value)
        target = self._agreed(run, asked)
        if target is None:
            raise LuminaError(
                "E304",
                f"neither a snapshot nor a good checkpoint lies within the last "
                f"{asked.steps:,} steps",
                "go back further, or save more often: --save-every-n-batches",
            )
        self._due = asked, target

    def _agreed(self, run: Run, asked: Request, good: bool = False) -> Target | None:
        """The target that rank 0 chooses, on every rank; None where there is none.

        Args:
            run: under way.
            asked: how far back.
            good: only what is known to be good.
        """
        ranks = run.program.ranks
        run.checkpoints.wait()
        chosen = self._chosen(run, asked, good) if ranks.main else None
        found: Target | None = ranks.share(chosen)
        return found

    def _chosen(self, run: Run, asked: Request, good: bool) -> Target | None:
        """The first target that is whole; None where there is none. Rank 0 only."""
        plan, step = run.program.plan, run.progress.step
        if asked.marked:
            return self._snapshots.marked
        targets = self._snapshots.targets() + on_disk(run.checkpoints.folder)
        if plan.phases:
            # The checkpoint at the end of the phase before is of another Plan.
            targets = [one for one in targets if one.step > plan.phase_begin]
        if good:
            targets = [one for one in targets if one.good]
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
