"""What modules put into auxiliary sums and kinds read from them."""

from __future__ import annotations

DEPTH_COLUMNS = ("selected", "score", "threshold", "predicted", "tokens", "rows")
"""The columns of `mod.statistics` [L, 6]: tokens chosen, the sum of their scores, the
sum over rows of the lowest chosen score, the tokens that the predictor judged rightly,
and the tokens and rows to divide by."""

HALTING = "act.halting_loss"
"""Of a reasoner of puzzles: both halting losses together, summed over rows."""

PUZZLE_STATISTICS = "act.puzzle_statistics"
PUZZLE_COLUMNS = (
    "halt_loss",
    "continue_loss",
    "halted",
    "steps",
    "exact",
    "q_accuracy",
)
"""Of `PUZZLE_STATISTICS` [6], sums over rows; all but the first two over those that
halted."""
