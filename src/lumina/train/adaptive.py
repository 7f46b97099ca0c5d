"""A run with the orchestrator on, under the documents' name for it."""

from __future__ import annotations

from typing import Any

from lumina.config import Config
from lumina.train.result import TrainResult
from lumina.train.trainer import Trainer


class Orchestrator:
    """A run that observes, decides, adapts and remembers.

    Args:
        config: the settings; `adaptive` is on where it is off, and stays shadow.
        given: further arguments of `Trainer`.

    Attributes:
        trainer: what trains.
    """

    def __init__(self, config: Config, **given: Any) -> None:
        if config.adaptive.adaptive == "off":
            config = config.replace(adaptive="on")
        self.trainer = Trainer(config, **given)

    def run_adaptive_training(self) -> TrainResult:
        """Train to the end, as `Trainer.train` does."""
        return self.trainer.train()

    def get_adaptive_status(self) -> dict[str, Any]:
        """What was decided so far; see `Trainer.get_adaptive_status`."""
        return self.trainer.get_adaptive_status()
