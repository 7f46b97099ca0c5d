"""What the start of a command took, told with its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina import start_clock
from lumina.train.callbacks import Callback

if TYPE_CHECKING:
    from lumina.train.trainer import Trainer


class ToldStart(Callback):
    """Writes the event `started` with the first row, where a start was measured."""

    def on_step(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """The first step is finished."""
        seconds = start_clock.finished()
        if seconds is not None and trainer.ranks.main:
            rounded = {name: round(spent, 3) for name, spent in seconds.items()}
            text = start_clock.in_words(seconds)
            trainer.tell("started", text, int(row["step"]), seconds=rounded)
