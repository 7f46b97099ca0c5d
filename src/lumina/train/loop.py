"""The training loop, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from lumina.assemble.assemble import Progress, capture, memory_for_copies
from lumina.assemble.host_copies import HostCopies
from lumina.assemble.program import Program
from lumina.assemble.state_parts import as_saved
from lumina.data.stream import Prefetcher, RowStream
from lumina.errors import LuminaError
from lumina.heartbeat import beat, still
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
from lumina.train.controls import Change, Controls, control_named
from lumina.train.controls.ending import is_pause, reason_of
from lumina.train.evaluations import Evaluations
from lumina.train.feeding import feed_of, known_of
from lumina.train.memory_ladder.beside_steps import once_more
from lumina.train.memory_ladder.recovery import MemoryRecovery
from lumina.train.recorder import Recorder
from lumina.train.recovery.recovery import Recovery
from lumina.train.remembered import remembered
from lumina.train.ring import MetricRing
from lumina.train.rules import RunningRules
from lumina.train.samples import Samples
from lumina.train.signals import StopSignals
from lumina.train.step import SCALARS, train_step
from lumina.train.stopping import Stops
from lumina.train.warm_up import capacities_to_compile, warm_device, warm_up
from lumina.train.watch import NOTHING, Watch

DIVERGED_AFTER = 50
"""Consecutive steps without a finite gradient that end a run."""


@dataclass
class Loop:
    """A run between its first and last step.

    Attributes:
        program: what trains; replaced when a control reassembles it.
        stream: the batches.
        evaluations: what is done with the held-out data.
        progress: where the run is.
        recorder: where numbers go.
        checkpoints: where States go.
        controls: requested changes.
        signals: requests to stop.
        config: the run's settings, written into every State.
        stops: further ways to end the run.
        samples: texts that the model writes on the way; None: it writes none.
        rules: what watches the run and may change it.
        memory: what is done when memory runs out.
        best: the best evaluation so far.
        recovery: what takes the run back to an earlier step.
        saved: the step of the newest checkpoint; -1: there is none.
        encoding: what makes ids of texts, by name and fingerprint.
        reason: why the loop ended.
        interrupted: a signal, or `Trainer.stop`, ended it.
        asked_to_stop: `Trainer.stop` was called on this rank.
    """

    program: Program
    stream: RowStream
    evaluations: Evaluations
    progress: Progress
    recorder: Recorder
    checkpoints: CheckpointStore
    controls: Controls
    signals: StopSignals
    config: dict[str, Any]
    stops: Stops = field(default_factory=Stops)
    samples: Samples | None = None
    rules: RunningRules = field(default_factory=RunningRules)
    memory: MemoryRecovery = field(default_factory=MemoryRecovery)
    best: Best = field(default_factory=Best)
    recovery: Recovery = field(default_factory=Recovery)
    saved: int = -1
    encoding: dict[str, str] = field(default_factory=dict)
    reason: str = "done"
    interrupted: bool = False
    asked_to_stop: bool = False
    _agreed_stop: bool = False
    _agreed_change: bool = False
    _agreed_save: bool = False
    _save_asked: bool = False
    _epoch_over: bool = False
    _phase_ends: bool = False
    _to_go_on: bool = False
    _warm: Program | None = None
    _watch: Watch = NOTHING
    _saved_at: float = field(default_factory=lambda: time.monotonic())
    _ring: MetricRing = field(init=False)

    @property
    def plan(self) -> Plan:
        """What the current program realises."""
        return self.program.plan

    def run(self) -> None:
        """Train until the Plan's last step, the data's end, or a request to stop.

        Raises:
            LuminaError: E301 when gradients stay non-finite, E201 when the device has
                no room, E204 when a checkpoint has none.
        """
        if self.progress.step >= self.plan.steps:
            self.reason = (
                f"nothing left to train: {length_in_words(self.plan)}, and step "
                f"{self.progress.step} is done; raise --steps or --epochs to train on"
            )
        reordered(self)
        self.recovery.begin(self)
        self.checkpoints.begin()
        feed = self._feed()
        self._ring = ring = MetricRing(cuda=self.program.device.type == "cuda")
        if 0 < self.plan.save_every < self.plan.steps - self.progress.step:
            memory_for_copies(self.program, ahead=True)
        try:
            self._make_up_evaluation()
            if not self.evaluations.measure_outset(
                self.program, self.progress.step, self._stop_asked
            ):
                self._stop_agreed()
            while self.progress.step < self.plan.steps and not self._agreed_stop:
                if self._changed(ring):
                    feed.close()
                    feed = self._feed()
                if self.recovery.asked:
                    self._record_all(ring)
                    self.recovery.carry_out(self)
                    reordered(self)
                    feed.close()
                    feed = self._feed()
                    ring.clock.restart()
                if self.program.live.ending is not None:
                    self._record_all(ring)
                    ending = self.program.live.ending
                    self.reason = reason_of(ending, self.progress.step)
                    self._to_go_on = is_pause(ending)
                    self._phase_ends = not self._to_go_on
                    break
                if self.program.live.next_phase is not None:
                    self._end_phase()
                    break
                beat("waiting for data", self.progress.step)
                batches, waited = feed.next()
                if batches is None:
                    self._record_all(ring)
                    self._judge_end_of_data()
                    self.reason = "all data used"
                    break
                if self.recovery.is_corrupted(self, batches):
                    continue
                values = self._guarded_step(batches)
                if values is None:  # taken again, with less memory
                    feed.close()
                    feed = self._feed()
                    continue
                self.progress.tokens += batches.tokens
                self.progress.cursor = dict(batches.cursor)
                self.memory.guard.after_update()
                known = known_of(self.program, self.progress, batches, waited)
                ring.push(known | {"watch": self._watch}, values)
                for event in batches.events:
                    self.recorder.event(**{"step": self.progress.step, **event})
                if self.stops.ends_after(batches.epoch):
                    self.reason = "the epoch is over (stop_after_epoch)"
                    self._agreed_stop = self._epoch_over = True
                boundary = self._boundary()
                for row in self._arrived(ring, newest=boundary):
                    if boundary and self.evaluations.due(self.plan, row["step"]):
                        row |= self._evaluated(row["step"], row)
                    self._write(row)
                if boundary:
                    self._at_boundary(self.recorder.last_row)
                if self._agreed_save:
                    self._save_as_asked(ring)
            self._record_all(ring)
            self._finish()
        finally:
            feed.close()
            self.recovery.close()

    def _feed(self) -> Prefetcher:
        return feed_of(
            self.program, self.stream, self.progress, self.config, self.memory
        )

    def _guarded_step(self, batches: Any) -> torch.Tensor | None:
        """One step; None where it had no room and is to be taken again."""
        stop = self._stop_asked()
        wants = self.controls.waiting and self.program.ranks.main
        asked = self._save_asked or self.signals.take_save() or self._save_due()

        def take() -> torch.Tensor:
            self._warm_up(batches)
            beat("step", self.progress.step)
            step = self.progress.step
            self._watch = Watch.of(self.program, batches, step + 1)
            if self._watch.apart:
                self._ring.clock.restart()
            return train_step(
                self.program,
                batches,
                step,
                stop=stop,
                request=wants,
                save=asked,
                measured=self.recorder.measured,
                watch=self._watch,
                guard=self.memory.guard,
            )

        values = self.memory.attempt(self, len(batches.micro_batches), take)
        self._save_asked = asked and values is None
        if values is None:
            self._ring.clock.restart()
            return None
        self.progress.step += 1
        self.memory.after_step(self.progress.step)
        return values

    def settle(self) -> None:
        """Let go of a step that broke off, and write the rows of those before it."""
        self._watch = NOTHING
        self._record_all(self._ring)

    def apply(self, change: Change) -> None:
        """Set a control for the step that is taken again."""
        apply(self, change)

    def _warm_up(self, batches: Any) -> None:
        """Compile for every capacity, once for each Program that may change its own."""
        if self._warm is self.program or not batches.micro_batches:
            return
        first, self._warm = self._warm is None, self.program
        if first and self.config["cuda_warm_up"] and warm_device(self.program):
            self._ring.clock.restart()
        if not capacities_to_compile(self.program):
            return
        beat("compiling")
        show = self.recorder.console.message if self.recorder.main else lambda _: None
        warm_up(self.program, batches.micro_batches[0], show)
        self._ring.clock.restart()

    def _changed(self, ring: MetricRing) -> bool:
        """Apply what was asked for and what was granted to rules.

        Returns:
            Whether batches have to be read anew.
        """
        again = False
        if self._agreed_change:
            # Queued metrics first: their shapes belong to the old Program.
            self._record_all(ring)
            self._agreed_change = False
            again = apply_requests(self)
            ring.clock.restart()
        if rulings := self.rules.due(self.progress.step):
            self._record_all(ring)
            again |= apply_rulings(self, rulings)
            ring.clock.restart()
        return again

    def _end_phase(self) -> None:
        """The next phase was asked for: evaluate once more, and end this one."""
        self._phase_ends, step = True, self.progress.step
        self.reason = f"the phase {self.program.live.next_phase} was asked for"
        held_out = self.evaluations.batches is not None
        due = held_out and not self.evaluations.due(self.plan, step)
        if due and (found := self._evaluated(step)):
            self.recorder.amend(step, found)

    def _judge_end_of_data(self) -> None:
        """The last evaluation, where the data ends before the last step of the plan."""
        step = self.progress.step
        trained = self.recorder.last_row.get("step") == step
        if not trained or self.evaluations.batches is None:
            return
        if not self.evaluations.due(self.plan, step) and (
            found := self._evaluated(step)
        ):
            self.recorder.amend(step, found)
            self._keep_best(self.recorder.last_row)

    def _boundary(self) -> bool:
        """Whether an evaluation or a checkpoint is due after the current step."""
        step, plan = self.progress.step, self.plan
        return (
            step == plan.steps
            or bool(plan.eval_every and step % plan.eval_every == 0)
            or bool(plan.save_every and step % plan.save_every == 0)
            or (self.samples is not None and self.samples.due(step))
            or self.recovery.due(step)
        )

    def _arrived(self, ring: MetricRing, newest: bool) -> Iterator[dict[str, Any]]:
        """The rows of the steps whose numbers have come from the device.

        Args:
            ring: the queue of steps.
            newest: wait for the newest step's numbers as well.
        """
        leave = 0 if newest or not ring.cuda else 1
        for known, values in ring.pop(leave):
            if values[SCALARS.index("stop")] > 0:
                self._stop_agreed()
            if values[SCALARS.index("request")] > 0:
                self._agreed_change = True
            if values[SCALARS.index("save")] > 0:
                self._agreed_save = True
            row = self.recorder.row(self.plan, known, values)
            watch: Watch = known["watch"]
            row |= watch.row(values)
            for kind, text, data in watch.findings():
                self.recorder.note(kind, text, row["step"], **data)
            self.progress.skipped = self.recorder.skipped
            self.rules.see(row, self._value_at(row["step"]))
            tell_notes(self.rules, self.recorder)
            row |= self.rules.metrics()
            yield row

    def _write(self, row: dict[str, Any]) -> None:
        """Write a finished row, and end a run that no longer learns."""
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

    def _record_all(self, ring: MetricRing) -> None:
        """Wait for the rows of all steps so far, and write them."""
        for row in self._arrived(ring, newest=True):
            self._write(row)

    def _evaluated(
        self, step: int, row: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What an evaluation adds to the row of its step.

        Nothing where the run is being stopped; the evaluation is made up for when the
        run goes on. Where it fails, `row` is written without it.
        """
        outcome = None
        if not self.interrupted:
            self.evaluations.owed = True
            try:
                outcome = self.evaluations.judge(self.program, step, self._stop_asked)
            except Exception:
                if row is not None:
                    self._write(row)
                raise
        self.evaluations.owed = outcome is None
        if outcome is None:
            self._stop_agreed()
            return {}
        self.rules.see_evaluation(step, outcome.metrics, self._value_at(step))
        tell_notes(self.rules, self.recorder)
        return self.evaluations.found(self.program, outcome)

    def _value_at(self, step: int) -> Callable[[str], Any]:
        """Gives the value of a control, by its name, after `step` steps."""
        return lambda name: control_named(name).now(self.program, step)

    def _make_up_evaluation(self) -> None:
        """Judge the last step before the next one, where a signal had prevented it."""
        step = self.progress.step
        if not self.evaluations.owed or not self.evaluations.due(self.plan, step):
            return
        found = self._evaluated(step)
        if found:
            self.recorder.amend(step, found)
            self._at_boundary(found)

    def _stop_asked(self) -> bool:
        """Whether this rank was asked to stop; the ranks have yet to agree."""
        still()
        ended = self.asked_to_stop or self.signals.received is not None
        return ended or self.stops.asked

    @property
    def paused(self) -> bool:
        """Whether the settings, or a rule, ended the run before its last step."""
        asked = self.asked_to_stop or self.signals.received is not None
        by_file = self.interrupted and not asked and self.stops.file_is_there
        return self._epoch_over or self._to_go_on or by_file

    @property
    def phase_over(self) -> bool:
        """Whether the run has phases and this one came to its end."""
        return bool(self.plan.phases) and not self.interrupted and not self.paused

    def ask_to_stop(self) -> None:
        """End after the next step, once all ranks know."""
        self.asked_to_stop = True

    def _stop_agreed(self) -> None:
        """Every rank knows that a signal ends the run."""
        self._agreed_stop = self.interrupted = True

    def _at_boundary(self, row: dict[str, Any]) -> None:
        """After the row is written: checkpoints, best model, early stopping."""
        step, plan = self.progress.step, self.plan
        # Best first: killed between the two, the run still knows its best model.
        self._keep_best(row)
        # Not while gradients are non-finite: retention would delete a good checkpoint.
        whole = not self.recorder.consecutive_skips
        if plan.save_every and step % plan.save_every == 0 and whole:
            self.save("regular")
        if self.samples is not None and self.samples.due(step):
            self.samples.take(self.program, step, self.recorder)
        self.recovery.at_boundary(self)
        self._ring.clock.restart()

    def _keep_best(self, row: dict[str, Any]) -> None:
        """Save the best model so far; end a run that has none for too long."""
        leaves = "best_metric", "best_is", "early_stopping_min_improvement"
        asked = [self.config[leaf] for leaf in leaves]
        improved = self.best.judge(row, self.progress.step, *asked)
        patience = self.plan.early_stopping_patience
        if patience and self.best.worse >= patience:
            self.reason = f"no better evaluation in {patience}"
            self._agreed_stop = self._phase_ends = True
        if improved and self.config["track_best_model"]:
            self.save("best")

    def _save_due(self) -> bool:
        """Whether the hours between checkpoints are over, by the first rank's clock."""
        hours = self.config["save_every_n_hours"]
        if hours is None or not self.program.ranks.main:
            return False
        return bool(time.monotonic() - self._saved_at >= 3600 * hours)

    def _save_as_asked(self, ring: MetricRing) -> None:
        """The checkpoint that a signal asked for; all ranks are at the same step."""
        self._record_all(ring)
        # While gradients are not finite, the request waits.
        if self.recorder.consecutive_skips:
            return
        self._agreed_save = False
        if self.saved != self.progress.step:
            self.save("regular")
        self._ring.clock.restart()

    def save(self, kind: Kind) -> None:
        """Snapshot now; write behind the next steps."""
        if self.checkpoints.mark(self.progress.step, kind):
            return
        beat("saving", self.progress.step)
        copies = memory_for_copies(self.program)
        if copies is not None:
            self.checkpoints.idle()  # what is being written is in the same memory
        state = once_more(
            lambda: self.state(copies), self.state, self.program.captures_alone
        )
        state = as_saved(state, self.config)
        self.checkpoints.save(state, kind=kind, already_snapshot=True)
        self.saved = self.progress.step
        self._saved_at = time.monotonic()

    def state(self, copies: HostCopies | None = None) -> State:
        """The State of the run; each rank has the tensors that it would write.

        Args:
            copies: memory for tensors, as of `capture`.
        """
        done = self._phase_ends or self.progress.step >= self.plan.steps
        self.progress.journal = self.controls.journal()
        self.progress.extra = remembered(self, done)
        return capture(self.program, self.progress, config=self.config, copies=copies)

    def _finish(self) -> None:
        """A last checkpoint, whatever ended the run."""
        step, judged = self.progress.step, self.evaluations
        if not self.interrupted and not judged.compare_modes(
            self.program, step, self._stop_asked
        ):
            self._stop_agreed()
        if self.interrupted:
            signal = not self.asked_to_stop or self.signals.received is not None
            self.reason = "stopped by " + ("a signal" if signal else "Trainer.stop")
            if self.paused:
                self.reason = f"stopped: {self.stops.reason}"
        if not self.interrupted:
            judged.tell_changes(self.plan, step)
            judged.tell_vocabulary(self.program, step)
        if self.phase_over:
            self.save("phase")
        elif self.saved != self.progress.step:
            self.save("emergency" if self.interrupted else "regular")
        beat("saving", step)
        self.checkpoints.wait()
