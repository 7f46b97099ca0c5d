"""Trackers: options that would do nothing without theirs."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings

_OPTIONS = {
    "tensorboard_dir": "tensorboard",
    "wandb_mode": "wandb",
    "mlflow_uri": "mlflow",
}
"""Option -> the tracker that reads it."""


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of trackers that the run does not have."""
    chosen = settings.tracking.trackers
    found = {
        leaf: f"trackers do not include {tracker}"
        for leaf, tracker in _OPTIONS.items()
        if tracker not in chosen
    }
    if not chosen:
        names = ("tracker_project", "tracker_run_name")
        found |= dict.fromkeys(names, "the run has no trackers")
    return found


RULE = Rule(without_effect=without_effect)
