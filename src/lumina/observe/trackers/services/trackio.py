"""Trackio: a local database, which `trackio show` displays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.observe.trackers.declared import register_tracker
from lumina.observe.trackers.tracker import Session, Tracker

LEVELS = {"warning": "WARN", "error": "ERROR", "critical": "ERROR"}
"""Severity of an event -> level of an alert; others are information."""


@register_tracker("trackio", package="trackio")
class Trackio(Tracker):
    """One run of a project. A resumed run goes on under the same name."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        import trackio

        self.identity = session.identity or session.name
        self._run = trackio.init(
            session.project,
            name=self.identity,
            config=dict(session.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the run."""
        self._run.log(dict(values), step=step)

    def event(self, event: Mapping[str, Any]) -> None:
        """An alert with the event's message."""
        import trackio

        level = LEVELS.get(event["severity"], "INFO")
        self._run.alert(
            event["kind"],
            event["message"],
            level=trackio.AlertLevel[level],
            step=event["step"],
        )

    def close(self, status: str) -> None:
        """All of it is in the database."""
        self._run.finish()
