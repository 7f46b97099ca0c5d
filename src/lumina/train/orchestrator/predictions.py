"""How often the loss of an undisturbed stretch is the one that was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lumina.train.orchestrator.forecast import forecast
from lumina.train.orchestrator.trial import Trial


class Predictions:
    """Predicts again and again, as a decision would, and looks what came true.

    Args:
        cooldown: steps between two changes.

    Attributes:
        held: the prediction that waits for its losses; None: there is none.
    """

    def __init__(self, cooldown: int) -> None:
        self.cooldown = cooldown
        self.held: dict[str, Any] | None = None

    def see(self, step: int, loss: float | None) -> None:
        """Take in the loss of a step; None where it is not finite."""
        if self.held is not None:
            trial = Trial(**self.held)
            trial.see(step, loss)
            self.held = trial.to_dict()

    def judge(self, step: int, losses: Sequence[Sequence[float]]) -> bool | None:
        """Whether a prediction came true, once; begins the next one.

        Args:
            step: of the last row.
            losses: the window that is predicted from.

        Returns:
            None where no prediction is due.
        """
        if self.held is None:
            curve, begin = forecast(losses), step + self.cooldown + 1
            if curve is not None:
                wanted = max(self.cooldown, 3)
                self.held = Trial(0, "", "", begin, wanted, curve.to_dict()).to_dict()
            return None
        trial = Trial(**self.held)
        if not trial.complete:
            return None
        self.held = None
        return trial.outcome(step).verdict == "same"

    def drop(self) -> None:
        """Something is wrong or was changed, so that no prediction holds."""
        self.held = None
