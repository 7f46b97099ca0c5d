"""Which evaluation of a run was the best, by the metric that the settings name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumina.config.metric_order import is_highest
from lumina.errors import LuminaError


@dataclass
class Best:
    """The best evaluation so far.

    Attributes:
        loss: its held-out loss.
        step: the step after which it was.
        worse: evaluations since then.
        score: what was compared, lower is better; None where it is the loss.
        mark: the value from which an improvement is measured, where only one of a
            least size clears the patience; else None.
    """

    loss: float = math.inf
    step: int | None = None
    worse: int = 0
    score: float | None = None
    mark: float | None = None

    @staticmethod
    def of(extra: Mapping[str, Any]) -> Best:
        """What the `extra` of a State remembers; `remembered` is the inverse."""
        loss = extra["best_loss"]
        return Best(
            math.inf if loss is None else loss,
            extra["best_step"],
            extra["worse_evaluations"],
            extra.get("best_score"),
            extra.get("best_mark"),
        )

    def remembered(self) -> dict[str, Any]:
        """What a State has to remember of it, as plain JSON values."""
        found = {
            "best_loss": None if math.isinf(self.loss) else self.loss,
            "best_step": self.step,
            "best_score": self.score,
            "worse_evaluations": self.worse,
        }
        return found if self.mark is None else found | {"best_mark": self.mark}

    def judge(
        self,
        row: Mapping[str, Any],
        step: int,
        metric: str,
        best_is: str | None,
        least: float = 0.0,
    ) -> bool:
        """Take note of an evaluation.

        Args:
            row: of its step; without a held-out loss there was no evaluation.
            step: the step.
            metric: the key of the row that is compared.
            best_is: "lowest" or "highest"; None: as the metric's name says.
            least: the improvement that clears the patience, as a share of the value
                that last cleared it; 0: any.

        Returns:
            Whether it is the best so far.

        Raises:
            LuminaError: E005 for a metric that the evaluation does not report.
        """
        if "eval_loss" not in row:
            return False
        if metric not in row:
            reported = ", ".join(name for name in row if "eval_" in name)
            raise LuminaError(
                "E005",
                f"best_metric {metric}: the evaluations of this run do not report it",
                f"they report {reported}",
            )
        loss, value = row["eval_loss"], row[metric]
        if loss is None or value is None or not math.isfinite(value):
            self.worse += value is not None
            return False
        plain = metric == "eval_loss" and best_is != "highest"
        score = -value if is_highest(metric, best_is) else value
        before = self.loss if plain else self.score
        if before is not None and score >= before:
            self.worse += 1
            return False
        self.loss, self.step = loss, step
        self.worse = 0 if self._clears(score, least) else self.worse + 1
        self.score = None if plain else score
        return True

    def _clears(self, score: float, least: float) -> bool:
        """Whether a best score is better by enough to clear the patience."""
        if not least:
            return True
        enough = self.mark is None or score <= self.mark - least * abs(self.mark)
        if enough:
            self.mark = score
        return enough
