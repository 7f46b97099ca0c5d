"""Options of the services that show a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class TrackingSection(Section):
    """Where else a run's numbers and events are shown."""

    trackers: tuple[str, ...] = Field(
        (),
        description="tensorboard, wandb, mlflow, trackio or what a plug-in registers; "
        "a row every log_every_n_batches and all events go there",
    )
    tracker_project: str = Field(
        "lumina", description="what trackers group runs by (MLflow: the experiment)"
    )
    tracker_run_name: str | None = Field(
        None, description="what trackers call the run; default: its folder's name"
    )
    tensorboard_dir: str | None = Field(
        None, description="event files go to DIR/NAME; default: the run's tensorboard/"
    )
    wandb_mode: Literal["online", "offline"] | None = Field(
        None,
        description="offline: write files for `wandb sync`; default: what WANDB_MODE "
        "says, or else online",
    )
    mlflow_uri: str | None = Field(
        None,
        description="MLflow's server; default: MLFLOW_TRACKING_URI, or the file "
        "mlflow.db in the run's folder",
    )
