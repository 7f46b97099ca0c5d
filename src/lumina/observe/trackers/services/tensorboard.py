"""TensorBoard: event files in the run directory, or where `--tensorboard-dir` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.observe.trackers.declared import register_tracker
from lumina.observe.trackers.tracker import Session, Tracker


@register_tracker("tensorboard", package="tensorboard")
class TensorBoard(Tracker):
    """Numbers as scalars, events as text, the settings as text.

    A resumed run hides the points behind the step from which it goes on.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        from torch.utils.tensorboard import SummaryWriter

        asked = session.options.get("tensorboard_dir")
        folder = Path(asked) / session.name if asked else session.folder / "tensorboard"
        self._writer = SummaryWriter(
            str(folder), purge_step=session.step + 1 if session.step else None
        )
        settings = "\n".join(f"    {k}: {v}" for k, v in session.settings.items())
        self._writer.add_text("settings", settings, session.step)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def event(self, event: Mapping[str, Any]) -> None:
        """A text under the event's kind."""
        text = f"{event['severity']}: {event['message']}"
        self._writer.add_text(f"events/{event['kind']}", text, event["step"] or 0)

    def close(self, status: str) -> None:
        """The files are whole."""
        self._writer.close()
