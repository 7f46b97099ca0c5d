"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        run_dir: where everything is.
        final_loss: of the last step that had a label; NaN if there was none.
        best_eval_loss: None if nothing was evaluated.
        steps: completed steps.
        tokens: tokens seen.
        reason: "done", or why it stopped.
        paused: the settings ended it before its last step; it can go on.
        exit_code: 0, or 129, 130 or 143 when a signal stopped it.
    """

    run_dir: Path
    final_loss: float
    best_eval_loss: float | None
    steps: int
    tokens: int
    reason: str = "done"
    exit_code: int = 0
    paused: bool = False
