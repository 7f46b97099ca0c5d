"""The training loop: what happens in a run between its first and its last step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from lumina.assemble.assemble import Progress, capture, memory_for_copies
from lumina.assemble.host_copies import HostCopies
from lumina.assemble.program import Program
from lumina.data.prefetch import Prefetcher
from lumina.data.stream import RowStream, StepBatches
from lumina.ending import closed_after
from lumina.errors import LuminaError
from lumina.heartbeat import beat
from lumina.plan.duration import length_in_words
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore, Kind
from lumina.state.state import State
from lumina.train.best import Best
from lumina.train.changing import (
    apply,
    apply_requests,
    apply_rulings,
    reordered,
    tell_notes,
)
from lumina.train.controls import Change, Controls
from lumina.train.end_of_run import EndOfRun
from lumina.train.evaluating import (
    evaluate,
    evaluate_out_of_turn,
    keep_best,
    make_up_evaluation,
    values_after,
)
from lumina.train.evaluations import Evaluations
from lumina.train.feeding import feed_of, known_of
from lumina.train.memory_ladder.recovery import MemoryRecovery
from lumina.train.recorder import Recorder
from lumina.train.recovery.recovery import Recovery
from lumina.train.remembered import remembered
from lumina.train.ring import MetricRing
from lumina.train.rules import RunningRules
from lumina.train.samples import Samples
from lumina.train.saving import Saving
from lumina.train.step import SCALARS, train_step
from lumina.train.warm_up import WarmUp
from lumina.train.watch import NOTHING, Watch

DIVERGED_AFTER = 50
"""Consecutive steps without a finite gradient that end a run."""


@dataclass
class Loop:
    """A run between its first and last step.

    The device works behind the host: a step is launched, and its numbers are read while
    the next one runs (`_ring`). Only where something depends on a step being complete
    does the loop wait for it: before a change, an evaluation, a checkpoint or the end.

    Several ranks run the same loop. What reaches one of them alone (a signal, a
    request, the time) travels in the metrics of its next step, so that all ranks act on
    it after the same step.

    Attributes:
        program: what trains; replaced when a control reassembles it.
        stream: the batches.
        evaluations: what is done with the held-out data.
        progress: where the run is.
        recorder: where numbers go.
        checkpoints: where States go.
        controls: requested changes.
        config: the run's settings, written into every State.
        end: whether the run is to end, and why.
        saving: when a checkpoint is written, and how.
        samples: texts that the model writes on the way; None: it writes none.
        rules: what watches the run and may change it.
        memory: what is done when memory runs out.
        best: the best evaluation so far.
        recovery: what takes the run back to an earlier step.
        encoding: what makes ids of texts, by name and fingerprint.
    """

    program: Program
    stream: RowStream
    evaluations: Evaluations
    progress: Progress
    recorder: Recorder
    checkpoints: CheckpointStore
    controls: Controls
    config: dict[str, Any]
    end: EndOfRun
    saving: Saving
    samples: Samples | None = None
    rules: RunningRules = field(default_factory=RunningRules)
    memory: MemoryRecovery = field(default_factory=MemoryRecovery)
    best: Best = field(default_factory=Best)
    recovery: Recovery = field(default_factory=Recovery)
    encoding: dict[str, str] = field(default_factory=dict)
    _change_agreed: bool = False
    _watch: Watch = NOTHING
    _warm_up: WarmUp = field(init=False)
    _ring: MetricRing = field(init=False)
    _feed: Prefetcher = field(init=False)

    @property
    def plan(self) -> Plan:
        """What the current program realises."""
        return self.program.plan

    @property
    def phase_over(self) -> bool:
        """Whether the run has phases and this one came to its end."""
        ended_early = self.end.interrupted or self.end.paused
        return bool(self.plan.phases) and not ended_early

    def run(self) -> None:
        """Train until the Plan's last step, the data's end, or a request to stop.

        Raises:
            LuminaError: E301 when gradients stay non-finite, E201 when the device has
                no room, E204 when a checkpoint has none.
        """
        self._begin()
        with closed_after(lambda: self._feed.close(), self.recovery.close):
            self._evaluate_before_first_step()
            while self.progress.step < self.plan.steps and not self.end.reached:
                self._apply_changes()
                self._roll_back_if_asked()
                if self._ended_by_control():
                    break
                batches, waited = self._next_batches()
                if batches is None:
                    break
                if self.recovery.is_corrupted(self, batches):
                    continue  # to be rolled back, before any other step
                if self._guarded_step(batches, waited):
                    self._after_step()
            self._write_all_rows()
            self._finish()

    # Before the first step.

    def _begin(self) -> None:
        """Everything that the first step needs, without touching the weights."""
        if self.progress.step >= self.plan.steps:
            self.end.reason = (
                f"nothing left to train: {length_in_words(self.plan)}, and step "
                f"{self.progress.step} is done; raise --steps or --epochs to train on"
            )
        self._ring = MetricRing(cuda=self.program.device.type == "cuda")
        self._warm_up = WarmUp(self.config["cuda_warm_up"])
        reordered(self)
        self.recovery.begin(self)
        self.checkpoints.begin()
        self._feed = self._read_ahead()
        if 0 < self.plan.save_every < self.plan.steps - self.progress.step:
            memory_for_copies(self.program, ahead=True)

    def _evaluate_before_first_step(self) -> None:
        """Make up for what an earlier process owes; measure where the run begins."""
        if found := make_up_evaluation(self):
            self._at_boundary(found)
        if not self.evaluations.measure_outset(
            self.program, self.progress.step, self.end.is_asked
        ):
            self.end.interrupt()

    # Between two steps.

    def _apply_changes(self) -> None:
        """Apply what was asked for, and what was granted to rules."""
        changed, read_anew = False, False
        if self._change_agreed:
            # Queued metrics first: their shapes belong to the old Program.
            self._write_all_rows()
            self._change_agreed = False
            changed, read_anew = True, apply_requests(self)
        if rulings := self.rules.due(self.progress.step):
            self._write_all_rows()
            changed, read_anew = True, apply_rulings(self, rulings) or read_anew
        if changed:
            self._ring.clock.restart()
        if read_anew:
            self._read_anew()

    def _roll_back_if_asked(self) -> None:
        """Take the run back to an earlier step, where a control or a check asked it."""
        if not self.recovery.asked:
            return
        self._write_all_rows()
        self.recovery.carry_out(self)
        reordered(self)
        self._read_anew()
        self._ring.clock.restart()

    def _ended_by_control(self) -> bool:
        """Whether a control ends the run, or its phase, before the next step."""
        live, step = self.program.live, self.progress.step
        if live.ending is not None:
            self._write_all_rows()
            self.end.by_control(live.ending, step)
            return True
        if live.next_phase is not None:
            self.end.complete = True
            self.end.reason = f"the phase {live.next_phase} was asked for"
            evaluate_out_of_turn(self)
            return True
        return False

    def _next_batches(self) -> tuple[StepBatches | None, float]:
        """The batches of the next step, and the seconds waited for them.

        None where the data has ended; the run is then evaluated once more.
        """
        beat("waiting for data", self.progress.step)
        batches, waited = self._feed.next()
        if batches is None:
            self._write_all_rows()
            # Not where a resumed run finds the data at its end: it was evaluated then.
            trained = self.recorder.last_row.get("step") == self.progress.step
            if trained and evaluate_out_of_turn(self):
                self._keep_best(self.recorder.last_row)
            self.end.reason = "all data used"
        return batches, waited

    def _read_ahead(self) -> Prefetcher:
        """Begin to read the batches behind the present position in the data."""
        return feed_of(
            self.program, self.stream, self.progress, self.config, self.memory
        )

    def _read_anew(self) -> None:
        """Drop the batches that were read ahead for another order or layout."""
        self._feed.close()
        self._feed = self._read_ahead()

    # One step.

    def _guarded_step(self, batches: StepBatches, waited: float = 0.0) -> bool:
        """Take a step, and queue its numbers.

        Returns:
            False where the step had no room: the program has become smaller, and the
            step is to be taken again.
        """
        stop = self.end.is_asked()
        change = self.controls.waiting and self.program.ranks.main
        save = self.saving.is_asked(self)

        def take() -> Tensor:
            self._prepare_step(batches)
            return train_step(
                self.program,
                batches,
                self.progress.step,
                stop=stop,
                request=change,
                save=save,
                measured=self.recorder.measured,
                watch=self._watch,
                guard=self.memory.guard,
            )

        values = self.memory.attempt(self, len(batches.micro_batches), take)
        self.saving.ask_again(save and values is None)
        if values is None:
            self._ring.clock.restart()
            self._read_anew()
            return False
        self.progress.step += 1
        self.memory.after_step(self.progress.step)
        self.progress.tokens += batches.tokens
        self.progress.cursor = dict(batches.cursor)
        self.memory.guard.after_update()
        known = known_of(self.program, self.progress, batches, waited)
        self._ring.push(known | {"watch": self._watch}, values)
        for event in batches.events:
            self.recorder.event(**{"step": self.progress.step, **event})
        self.end.after_epoch(batches.epoch)
        return True

    def _prepare_step(self, batches: StepBatches) -> None:
        """Compile for the first step of a Program; choose what looks at this one."""
        show = self.recorder.console.message if self.recorder.main else lambda _: None
        if self._warm_up.before_step(self.program, batches.micro_batches, show):
            self._ring.clock.restart()
        beat("step", self.progress.step)
        self._watch = Watch.of(self.program, batches, self.progress.step + 1)
        if self._watch.apart:
            self._ring.clock.restart()

    # After a step.

    def _after_step(self) -> None:
        """Write the rows that are complete; evaluate and save where that is due."""
        boundary = self._at_a_boundary()
        for row in self._complete_rows(newest=boundary):
            if boundary and self.evaluations.due(self.plan, row["step"]):
                row |= evaluate(self, partial(self._write, row))
            self._write(row)
        if boundary:
            self._at_boundary(self.recorder.last_row)
        self.saving.catch_up(self)
        if self.saving.agreed:
            self._write_all_rows()
            self.saving.save_as_agreed(self)
            self._ring.clock.restart()

    def _at_a_boundary(self) -> bool:
        """Whether something is due after this step that needs it to be complete."""
        step, plan = self.progress.step, self.plan
        return (
            step == plan.steps
            or bool(plan.eval_every and step % plan.eval_every == 0)
            or self.saving.is_due(plan, step)
            or (self.samples is not None and self.samples.due(step))
            or self.recovery.due(step)
        )

    def _keep_best(self, row: dict[str, Any]) -> None:
        """Save the model of an evaluation that is the best so far."""
        if keep_best(self, row):
            self.save("best")

    def _at_boundary(self, row: dict[str, Any]) -> None:
        """After the row is written: best model, checkpoint, samples, snapshot."""
        step = self.progress.step
        # Best first: killed between the two, the run still knows its best model.
        self._keep_best(row)
        # Not while gradients are non-finite: retention would delete a good checkpoint.
        finite = not self.recorder.consecutive_skips
        if self.saving.is_due(self.plan, step) and finite:
            self.save("regular")
        if self.samples is not None and self.samples.due(step):
            self.samples.take(self.program, step, self.recorder)
        self.recovery.at_boundary(self)
        self._ring.clock.restart()

    def _complete_rows(self, newest: bool) -> Iterator[dict[str, Any]]:
        """The metrics rows of the steps whose numbers have come from the device.

        Args:
            newest: wait for the newest step's numbers as well.
        """
        leave = 0 if newest or not self._ring.cuda else 1
        for known, values in self._ring.pop(leave):
            self._hear_ranks(values)
            row = self.recorder.row(self.plan, known, values)
            watch: Watch = known["watch"]
            row |= watch.row(values)
            for kind, text, data in watch.findings():
                self.recorder.note(kind, text, row["step"], **data)
            self.progress.skipped = self.recorder.skipped
            self.rules.see(row, values_after(self, row["step"]))
            tell_notes(self.rules, self.recorder)
            row |= self.rules.metrics()
            yield row

    def _hear_ranks(self, values: list[float]) -> None:
        """What any rank asked for when it launched a step is now known to all."""
        if values[SCALARS.index("stop")] > 0:
            self.end.interrupt()
        if values[SCALARS.index("request")] > 0:
            self._change_agreed = True
        if values[SCALARS.index("save")] > 0:
            self.saving.agreed = True

    def _write(self, row: dict[str, Any]) -> None:
        """Write a complete row, and end a run that no longer learns."""
        self.recorder.write(row)
        self.recovery.see(self, row)
        if self.recorder.consecutive_skips >= DIVERGED_AFTER:
            raise LuminaError(
                "E301",
                f"no finite gradient in {DIVERGED_AFTER} steps up to step "
                f"{row['step']}",
                "lower --learning-rate or raise --warmup-steps, then go on from "
                "the last checkpoint with --auto-resume",
            )

    def _write_all_rows(self) -> None:
        """Wait for the rows of all steps so far, and write them."""
        for row in self._complete_rows(newest=True):
            self._write(row)

    # The end.

    def _finish(self) -> None:
        """A last checkpoint, whatever ended the run."""
        step, evaluations = self.progress.step, self.evaluations
        if not self.end.interrupted and not evaluations.compare_modes(
            self.program, step, self.end.is_asked
        ):
            self.end.interrupt()
        self.end.name_interruption()
        if not self.end.interrupted:
            evaluations.tell_changes(self.plan, step)
            evaluations.tell_vocabulary(self.program, step)
        if self.phase_over:
            self.save("phase")
        elif self.saving.newest != step:
            self.save("emergency" if self.end.interrupted else "regular")
        beat("saving", step)
        self.checkpoints.wait()

    # What the answers to a lack of memory, rollbacks and crashes ask of a run.

    def settle(self) -> None:
        """Give up a step that broke off, and write the rows of those before it."""
        self._watch = NOTHING
        self._write_all_rows()

    def apply(self, change: Change) -> None:
        """Set a control for the step that is taken again."""
        apply(self, change)

    def save(self, kind: Kind) -> None:
        """Copy the State now, and write it while the next steps run."""
        self.saving.save(self, kind)

    def state(self, copies: HostCopies | None = None) -> State:
        """The State of the run; each rank has the tensors that it would write.

        Args:
            copies: memory for tensors, as of `capture`.
        """
        complete = self.end.complete or self.progress.step >= self.plan.steps
        self.progress.journal = self.controls.journal()
        self.progress.extra = remembered(self, complete)
        return capture(self.program, self.progress, config=self.config, copies=copies)
