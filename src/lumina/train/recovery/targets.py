"""What a run can go back to, and which of it is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.state.manifest import read_manifest
from lumina.state.reader import step_folders
from lumina.state.retention import GOOD
from lumina.train.recovery.request import Request

BEFORE = 10
"""Rows whose mean loss tells how good a model was that was not evaluated."""


@dataclass(frozen=True)
class Target:
    """A step of which there is a State.

    Attributes:
        step: completed steps.
        checkpoint: its folder; None for a snapshot in memory.
        good: many steps without trouble have followed it.
    """

    step: int
    checkpoint: Path | None = None
    good: bool = False


def on_disk(checkpoints: Path) -> list[Target]:
    """The checkpoints of a run, those without a readable manifest left out."""
    found = []
    for step, path in step_folders(checkpoints):
        try:
            kinds = read_manifest(path).kinds
        except LuminaError:
            continue
        found.append(Target(step, path, GOOD in kinds))
    return found


def in_order(
    targets: Iterable[Target],
    asked: Request,
    step: int,
    rows: Iterable[Mapping[str, Any]],
) -> list[Target]:
    """The targets within reach, those to be tried first at the front.

    Known to be good is what comes first, the newest of it; of the others the oldest,
    for trouble may have begun before it was seen. A snapshot goes before the checkpoint
    of the same step.

    Args:
        targets: of any step.
        asked: how far back, and whether the best is meant.
        step: completed steps now.
        rows: of the metrics so far, for the best.
    """
    within = [one for one in targets if step - asked.steps <= one.step < step]
    if asked.earliest:
        return sorted(within, key=lambda one: (one.step, bool(one.checkpoint)))
    if asked.best:
        score = scores(rows)
        return sorted(
            within, key=lambda one: (*score(one.step), bool(one.checkpoint), -one.step)
        )

    def place(one: Target) -> tuple[bool, int, bool]:
        return not one.good, -one.step if one.good else one.step, bool(one.checkpoint)

    return sorted(within, key=place)


def scores(rows: Iterable[Mapping[str, Any]]) -> Callable[[int], tuple[int, float]]:
    """Gives how good the model was after a step, lower is better: a pair.

    Models that were evaluated come before others, by their held-out loss; the others by
    the mean of the losses of the last `BEFORE` steps.
    """
    known = list(rows)
    held_out = {row["step"]: row.get("eval_loss") for row in known}
    losses = {row["step"]: row.get("loss") for row in known}

    def score(step: int) -> tuple[int, float]:
        loss = held_out.get(step)
        if loss is not None and math.isfinite(loss):
            return 0, loss
        near = [losses.get(one) for one in range(step - BEFORE + 1, step + 1)]
        finite = [x for x in near if x is not None and math.isfinite(x)]
        return 1, sum(finite) / len(finite) if finite else math.inf

    return score
