"""Numbers and events on their way to trackers, which never hold up the run.

Each tracker has a queue and a thread. What a slow service has not taken yet waits in
the queue, and what does not fit is counted; a service that fails is left alone from
then on. Both are events of the run, which goes on.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lumina.durable import write_file
from lumina.observe.trackers.declared import Declared
from lumina.observe.trackers.tracker import Session, Tracker, numbers
from lumina.threads import start

WAITING = 10_000
"""Most rows and events that wait for a service."""

PATIENCE = 30.0
"""Seconds that the end of a run waits for all services together."""

IDENTITIES = "trackers.json"
"""File of a run directory: the services' own names of the run."""

Send = Callable[[Tracker], None]


class _Feed:
    """One tracker, its queue and its thread."""

    def __init__(
        self, declared: Declared, session: Session, keep: Callable[[str, str], None]
    ) -> None:
        self.name = declared.name
        self.problem: str | None = None  # why the service is left alone
        self.lost = 0  # rows and events that did not fit, or came after a failure
        self._waiting: queue.Queue[Send | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(
            target=self._run,
            args=(declared, session, keep),
            name=f"lumina-{declared.name}",
            daemon=True,
        )
        try:
            start(self._thread)
        except RuntimeError as error:
            self.problem = str(error)

    def put(self, send: Send) -> None:
        """Queue something, unless the service failed or has no room left."""
        if self.problem is not None:
            self.lost += 1
            return
        try:
            self._waiting.put_nowait(send)
        except queue.Full:
            self.lost += 1

    def end(self) -> None:
        """Nothing comes after what is queued."""
        if self._thread.is_alive():
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                self.problem = self.problem or "it is too slow for this run"

    def join(self, seconds: float) -> None:
        """Wait until all is sent; what then is not sent is lost."""
        if self._thread.ident is None:  # it never began
            return
        self._thread.join(max(seconds, 0.0))
        if self._thread.is_alive():
            self.lost += self._waiting.qsize()
            self.problem = self.problem or "it did not take everything in time"

    def _run(
        self, declared: Declared, session: Session, keep: Callable[[str, str], None]
    ) -> None:
        try:
            tracker: Tracker = declared.cls(session)
            if tracker.identity is not None:
                keep(self.name, tracker.identity)
            while (send := self._waiting.get()) is not None:
                send(tracker)
        except BaseException as error:  # a service may raise or exit as it likes
            text = " ".join(str(error).split())
            self.problem = f"{type(error).__name__}: {text}"[:300]
            self.lost += self._waiting.qsize() + 1


class Trackers:
    """The trackers of a run.

    Args:
        declared: which ones.
        session: the run; the identities come from its directory.
        every: steps between the rows that are sent; one with an evaluation always is.
        tell: records an event of the run: (kind, severity, code, message).
    """

    def __init__(
        self,
        declared: Iterable[Declared],
        session: Session,
        *,
        every: int,
        tell: Callable[..., None],
    ) -> None:
        self._file = session.folder / IDENTITIES
        self._identities = _read(self._file)
        self._lock = threading.Lock()
        self._every = every
        self._tell = tell
        self._told: set[str] = set()
        self._pending: dict[str, Any] | None = None
        self._feeds = [
            _Feed(
                one,
                replace(session, identity=self._identities.get(one.name)),
                self._keep,
            )
            for one in declared
        ]

    def row(self, row: Mapping[str, Any]) -> None:
        """Send a row of metrics.jsonl; the last one may be given again, amended."""
        if self._pending is not None and self._pending["step"] != row["step"]:
            self._send_row(self._pending)
        self._pending = dict(row)
        self._tell_problems()

    def event(self, event: Mapping[str, Any]) -> None:
        """Send an entry of events.jsonl."""
        for feed in self._feeds:
            feed.put(lambda tracker: tracker.event(event))

    def close(self, status: str) -> None:
        """Send the last row, and end every session, within `PATIENCE`."""
        if self._pending is not None:
            self._send_row(self._pending, last=True)
            self._pending = None
        for feed in self._feeds:
            feed.put(lambda tracker: tracker.close(status))
            feed.end()
        until = time.monotonic() + PATIENCE
        for feed in self._feeds:
            feed.join(until - time.monotonic())
        self._tell_problems(end=True)

    def _send_row(self, row: Mapping[str, Any], last: bool = False) -> None:
        step = row["step"]
        due = step == 1 or step % self._every == 0 or "eval_loss" in row
        if due or last:
            values = numbers(row)
            for feed in self._feeds:
                feed.put(lambda tracker: tracker.row(step, values))

    def _tell_problems(self, end: bool = False) -> None:
        """Say once of each service what became of it."""
        for feed in self._feeds:
            if feed.name in self._told or not (feed.problem or (end and feed.lost)):
                continue
            self._told.add(feed.name)
            why = feed.problem or "it is too slow for this run"
            self._tell(
                "tracker_failed",
                "warning",
                None,
                f"{feed.name} does not show all of this run: {why}; the run goes on, "
                "and its own files have everything",
                tracker=feed.name,
                lost=feed.lost,
            )

    def _keep(self, name: str, identity: str) -> None:
        """Remember how a service calls the run. Called in the threads."""
        with self._lock:
            if self._identities.get(name) == identity:
                return
            self._identities[name] = identity
            write_file(self._file, (json.dumps(self._identities) + "\n").encode())


def _read(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the services start over
    return found if isinstance(found, dict) else {}
