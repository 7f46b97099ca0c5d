"""What a language model that halts token by token did in a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def halting_metrics(statistics: Tensor) -> dict[str, Any]:
    """How long tokens were thought about, and what came of it.

    `act.active_share` is the share of the tokens with a label that took each segment,
    `act.mean_steps` their mean number of segments, `act.halted_share` the share that
    halted before the limit, `act.accuracy` the share whose most likely token was right
    where they halted, `act.q_accuracy` the share of (token, segment) of which the
    halting head knew whether it was.

    Args:
        statistics: [segments, 4], see `STATISTICS` of `objective.halting_language`.
    """
    entered, ended, right, known = statistics.unbind(1)
    tokens = entered[0].clamp(min=1)
    share = entered / tokens
    return {
        "act.active_share": share.tolist(),
        "act.mean_steps": share.sum().item(),
        "act.halted_share": (ended[:-1].sum() / tokens).item(),
        "act.accuracy": (right.sum() / tokens).item(),
        "act.q_accuracy": (known.sum() / entered.sum().clamp(min=1)).item(),
    }
