"""How a run has gone so far: what the end of a run is decided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumina.train.health.check import median
from lumina.train.health.window import falls

SOME = 5
"""Losses of which a median is taken."""


@dataclass(frozen=True)
class Course:
    """The losses of a run, in a few figures. None: too few are known.

    Attributes:
        rounds: how often the ladder of the anomaly has come to an end.
        outset: the median of the first losses.
        lowest: the lowest median of a few losses in a row.
        latest: the median of the latest losses.
        falls: the latest losses clearly fall.
    """

    rounds: int = 0
    outset: float | None = None
    lowest: float | None = None
    latest: float | None = None
    falls: bool = False

    @staticmethod
    def of(memory: Mapping[str, Any], rounds: int, within: int) -> Course:
        """From what the policy remembers.

        Args:
            memory: of the policy, which `follow` has kept.
            rounds: of the anomaly.
            within: latest losses of which is asked whether they fall.
        """
        latest = [loss for _, loss in memory["losses"][-SOME:]]
        within = max(within, 2 * SOME)
        return Course(
            rounds,
            memory.get("outset"),
            memory.get("lowest"),
            median(latest) if len(latest) == SOME else None,
            falls([loss for _, loss in memory["losses"][-within:]]),
        )


def follow(memory: dict[str, Any]) -> None:
    """Keep where the run began and how low it has come, as losses come in.

    A run that goes on from before has no `outset` where the losses were not seen.

    Args:
        memory: of the policy; its `losses` hold the newest one.
    """
    losses = [loss for _, loss in memory["losses"][-SOME:]]
    if len(losses) < SOME:
        return
    middle = median(losses)
    if memory.get("outset") is None:
        memory["outset"] = middle
    lowest = memory.get("lowest")
    memory["lowest"] = middle if lowest is None else min(lowest, middle)
