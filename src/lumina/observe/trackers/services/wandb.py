"""Weights & Biases, online or into files that `wandb sync` sends later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.observe.trackers.declared import register_tracker
from lumina.observe.trackers.tracker import Session, Tracker


@register_tracker("wandb", package="wandb")
class WeightsAndBiases(Tracker):
    """One W&B run, which a resumed run goes on with.

    The step is a value of each row, so that rows which a resumed run trains again
    stand where they belong.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        import wandb

        self._run = wandb.init(
            project=session.project,
            name=session.name,
            id=session.identity,
            resume="allow",
            dir=str(session.folder),
            config=dict(session.settings),
            mode=session.options.get("wandb_mode"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self.identity = str(self._run.id)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the history."""
        self._run.log({"step": step, **values})

    def event(self, event: Mapping[str, Any]) -> None:
        """A text in the history, under the event's kind."""
        text = f"{event['severity']}: {event['message']}"
        self._run.log({"step": event["step"] or 0, f"events/{event['kind']}": text})

    def close(self, status: str) -> None:
        """The run ends; W&B marks one that failed."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status == "failed"))
