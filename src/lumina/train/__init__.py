"""Training: the loop, the step, controls, and the `Trainer` around them."""

from __future__ import annotations

from lumina.train.callbacks import Callback, SavedCheckpoint
from lumina.train.trainer import Trainer, TrainResult

__all__ = ["Callback", "SavedCheckpoint", "TrainResult", "Trainer"]
