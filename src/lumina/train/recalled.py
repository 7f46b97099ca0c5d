"""What a recorder knows of the rows that stand in a run's metrics."""

from __future__ import annotations

import math
from typing import Any

from lumina.assemble.ranks import Ranks
from lumina.state.metrics import read_metrics
from lumina.train.record_checks import gaps_in_words, missing_rows
from lumina.train.recorder import Recorder


def recall(recorder: Recorder, ranks: Ranks, step: int) -> None:
    """Let a recorder go on behind the last row of its file. All ranks call it together.

    Args:
        recorder: of the run, on this rank.
        ranks: this process's place; rank 0 has the file.
        step: completed steps, for each of which there is to be a row.
    """
    if recorder.metrics is not None:
        rows = read_metrics(recorder.metrics.path.parent)
        _tell_missing_rows(rows, recorder, step)
        recorder.last_row = rows[-1] if rows else {}
        losses = (row.get("loss") for row in reversed(rows))
        recorder.last_loss = next((x for x in losses if x is not None), math.nan)
        recorder.clipped = recorder.last_row.get("clipped_gradients", 0)
        recorder.unlabelled = sum(row.get("loss_tokens") == 0 for row in rows)
    recorder.last_row, recorder.last_loss = ranks.share(
        (recorder.last_row, recorder.last_loss)
    )


def _tell_missing_rows(
    rows: list[dict[str, Any]], recorder: Recorder, step: int
) -> None:
    """Rows that are gone cannot be made again; curves and averages lack them."""
    gaps = missing_rows(rows, step)
    if gaps:
        recorder.event(
            "rows_missing",
            "warning",
            None,
            f"metrics.jsonl has no rows of the steps {gaps_in_words(gaps)}, which were "
            "trained; the weights are not affected",
            step=step,
            gaps=gaps,
        )
