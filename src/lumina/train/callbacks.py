"""Code of yours that a run calls: on steps, evaluations, checkpoints and events."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumina.train.trainer import Trainer


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is written and verified.

    Attributes:
        step: completed steps.
        path: its folder.
        kind: "regular", "best", "emergency" or "phase".
        bytes: its size.
        seconds: how long writing took, behind the steps.
    """

    step: int
    path: Path
    kind: str
    bytes: int
    seconds: float


class Callback:
    """What a run calls; override what you need and hand it to `Trainer(callbacks=...)`.

    All methods are called in the thread that trains, between two steps, in the order of
    the list: for each finished row `on_step` of every callback, then `on_evaluation`,
    then what has happened since the last row as `on_checkpoint` and `on_event`. Rows
    come when their numbers have left the GPU, one step late, so that nothing waits for
    them. `on_step` and `on_evaluation` are called on every rank with the same numbers,
    the others on the first rank only, which alone writes.

    What a method takes of time is taken from training. A row is the run's own: change a
    copy. `trainer.stop()` and the `adjust_` methods take effect after the next step.

    An exception ends the run: it is marked as failed, `Trainer.train` raises the
    exception, and the run can be resumed from its last checkpoint. One that is raised
    for the last events, when the run has ended, changes nothing of the run.
    """

    def on_step(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """A step is finished; `row` is its line of metrics.jsonl."""

    def on_evaluation(
        self, trainer: Trainer, step: int, found: dict[str, float | None]
    ) -> None:
        """An evaluation is finished; `found` is what it added to its step's row."""

    def on_checkpoint(self, trainer: Trainer, saved: SavedCheckpoint) -> None:
        """A checkpoint is written and verified."""

    def on_event(self, trainer: Trainer, event: dict[str, Any]) -> None:
        """Something happened; `event` is its line of events.jsonl."""


class Deliveries:
    """Hands rows and events to the callbacks of a Trainer.

    Args:
        trainer: what they are called with, and whose `on_step` comes first.
        callbacks: in the order in which they are called.
    """

    def __init__(self, trainer: Trainer, callbacks: Sequence[Callback]) -> None:
        self._trainer = trainer
        self._callbacks = tuple(callbacks)
        self._events: deque[dict[str, Any]] = deque()
        self._run = Path()

    def begin(self, run: Path) -> None:
        """Events are of this run from here on."""
        self._run = run

    def row(self, row: dict[str, Any]) -> None:
        """Deliver a finished row, and the events since the one before."""
        if self._trainer.on_step is not None:
            self._trainer.on_step(self._trainer, row)
        for callback in self._callbacks:
            callback.on_step(self._trainer, row)
        if "eval_loss" in row:
            found = {key: value for key, value in row.items() if _of_evaluation(key)}
            for callback in self._callbacks:
                callback.on_evaluation(self._trainer, row["step"], found)
        self.deliver()

    def event(self, event: dict[str, Any]) -> None:
        """Keep an event, from any thread, until it can be delivered."""
        if self._callbacks:
            self._events.append(event)

    def deliver(self) -> None:
        """Deliver the events that are waiting."""
        while self._events:
            event = self._events.popleft()
            saved = self._saved(event)
            for callback in self._callbacks:
                if saved is not None:
                    callback.on_checkpoint(self._trainer, saved)
                callback.on_event(self._trainer, event)

    def _saved(self, event: dict[str, Any]) -> SavedCheckpoint | None:
        if event["kind"] != "checkpoint_saved":
            return None
        data = event["data"]
        return SavedCheckpoint(
            event["step"],
            self._run / "checkpoints" / data["checkpoint"],
            data["checkpoint_kind"],
            data["bytes"],
            data["seconds"],
        )


def _of_evaluation(key: str) -> bool:
    return key.rpartition(".")[2].startswith("eval_")
