"""Why a run ends, on which all its ranks agree before it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lumina.heartbeat import still
from lumina.train.controls.ending import is_pause, reason_of
from lumina.train.signals import StopSignals
from lumina.train.stopping import Stops


@dataclass
class EndOfRun:
    """Whether a run has come to its end, and why.

    A signal reaches one process at any moment. That process only asks for the end
    (`is_asked`); the step that it launches next, or the evaluation under way, tells the
    other ranks, and once all of them know (`interrupt`), they end after the same step.

    Attributes:
        signals: requests of the system to stop.
        stops: further ways to end the run, which its settings name.
        reason: why the run ended, for a person.
        reached: no further step is taken.
        interrupted: a signal, `Trainer.stop` or the stop file ended the run.
        stop_called: `Trainer.stop` was called on this rank.
        complete: nothing is left to train in this phase, although the plan has further
            steps: early stopping, a control, or the next phase ended it.
    """

    signals: StopSignals
    stops: Stops = field(default_factory=Stops)
    reason: str = "done"
    reached: bool = False
    interrupted: bool = False
    stop_called: bool = False
    complete: bool = False
    _epoch_over: bool = False
    _paused_by_control: bool = False

    def is_asked(self) -> bool:
        """Whether this rank was asked to stop; the ranks have yet to agree."""
        still()
        return self._asked_by_signal_or_call or self.stops.asked

    @property
    def _asked_by_signal_or_call(self) -> bool:
        return self.stop_called or self.signals.received is not None

    @property
    def _by_stop_file(self) -> bool:
        """Whether the stop file, and nothing else, interrupted the run."""
        asked = self._asked_by_signal_or_call
        return self.interrupted and not asked and self.stops.file_is_there

    @property
    def paused(self) -> bool:
        """Whether the settings, or a rule, ended the run before its last step."""
        return self._epoch_over or self._paused_by_control or self._by_stop_file

    @property
    def exit_code(self) -> int:
        """Of the process: that of the signal, 143 after `Trainer.stop`, else 0."""
        if not self.interrupted or self.paused:
            return 0
        return self.signals.exit_code or 143

    def interrupt(self) -> None:
        """Every rank knows that the run was asked to stop."""
        self.reached = self.interrupted = True

    def after_epoch(self, epochs: float | None) -> None:
        """End the run if it was to end with the pass over the data that is done now.

        Args:
            epochs: passes over the data so far; None where they are not known.
        """
        if self.stops.ends_after(epochs):
            self.reason = "the epoch is over (stop_after_epoch)"
            self.reached = self._epoch_over = True

    def by_control(self, ending: Mapping[str, Any], step: int) -> None:
        """End the run as the control `stop_run` says.

        Args:
            ending: the value of the control.
            step: completed steps.

        Raises:
            LuminaError: E301 for a run that has failed.
        """
        self.reason = reason_of(ending, step)
        self._paused_by_control = is_pause(ending)
        self.complete = not self._paused_by_control
        self.reached = True

    def by_patience(self, evaluations: int) -> None:
        """End a run that has had no better evaluation for too long.

        Args:
            evaluations: this many in a row were no better.
        """
        self.reason = f"no better evaluation in {evaluations}"
        self.reached = self.complete = True

    def name_interruption(self) -> None:
        """Set the reason of a run that was interrupted."""
        if not self.interrupted:
            return
        if self._by_stop_file:
            self.reason = f"stopped: {self.stops.reason}"
        elif self.stop_called and self.signals.received is None:
            self.reason = "stopped by Trainer.stop"
        elif not self.paused:
            self.reason = "stopped by a signal"
