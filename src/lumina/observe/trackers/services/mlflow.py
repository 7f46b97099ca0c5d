"""MLflow, at `--mlflow-uri`, MLFLOW_TRACKING_URI, or a file beside the run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from lumina.observe.trackers.declared import register_tracker
from lumina.observe.trackers.tracker import Session, Tracker

TAG = 5000
"""Most characters of a tag that every MLflow server takes."""

BATCH = 100
"""Parameters that are sent together; a server takes no more."""


@register_tracker("mlflow", package="mlflow")
class MLflow(Tracker):
    """One run of an experiment, which a resumed run goes on with.

    Numbers are metrics, options parameters, and events tags.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        place = session.options.get("mlflow_uri") or os.environ.get(
            "MLFLOW_TRACKING_URI", f"sqlite:///{session.folder.resolve()}/mlflow.db"
        )
        self._client = MlflowClient(tracking_uri=place)
        self._events = 0
        if session.identity is not None:
            self.identity = session.identity
            self._client.update_run(self.identity, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(session.project)
        experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(session.project)
        )
        made = self._client.create_run(experiment, run_name=session.name)
        self.identity = made.info.run_id
        settings = [Param(k, str(v)[:TAG]) for k, v in session.settings.items()]
        for first in range(0, len(settings), BATCH):
            self._client.log_batch(
                self.identity, params=settings[first : first + BATCH]
            )

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """A metric each."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_name(k), v, now, step) for k, v in values.items()]
        self._client.log_batch(self._known, metrics=metrics)

    def event(self, event: Mapping[str, Any]) -> None:
        """A tag, named by the step and the kind."""
        self._events += 1
        step = event["step"] or 0
        self._client.set_tag(
            self._known,
            f"event.{step:08d}.{event['kind']}.{self._events}",
            f"{event['severity']}: {event['message']}"[:TAG],
        )

    def close(self, status: str) -> None:
        """The run ends, as MLflow calls it."""
        ends = {"finished": "FINISHED", "failed": "FAILED"}
        self._client.set_terminated(self._known, ends.get(status, "KILLED"))

    @property
    def _known(self) -> str:
        assert self.identity is not None
        return self.identity


def _name(name: str) -> str:
    """A name that MLflow takes: letters, digits, and _ - . / and spaces."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)
