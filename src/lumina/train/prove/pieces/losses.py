"""The losses of the training beside a float32 reference, within the noise of seeds."""

from __future__ import annotations

from typing import Any

from lumina.train.prove.loss_parity import compare_losses
from lumina.train.prove.markdown import table
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import planned


def run(asked: Asked) -> dict[str, Any] | None:
    """Train both ways with each seed."""
    plan = planned(asked).plan
    return compare_losses(
        plan,
        steps=asked.amounts.loss_steps,
        seeds=asked.amounts.seeds,
        tell=asked.tell,
        stopped=asked.stopped,
    )


def page(found: dict[str, Any]) -> list[str]:
    """A row for each seed, and whether the difference is within the noise."""
    rows = [
        [one["seed"], f"{one['reference']:.5f}", f"{one['fast']:.5f}",
         f"{one['fast'] - one['reference']:+.5f}"]
        for one in found["seeds"]
    ]  # fmt: skip
    head = ("seed", "reference", "as planned", "difference")
    low, high = found["interval"]
    verdict = "inside" if found["inside"] else "OUTSIDE"
    return [
        f"{found['steps']} steps on rows of a pattern; the mean loss of the last "
        f"{found['counted']}. As planned: {found['planned']}. Reference: "
        f"{found['reference_is']}.",
        "",
        *table(head, rows),
        f"Mean difference {found['difference']:+.5f} (95% interval {low:+.5f} to "
        f"{high:+.5f}); the reference spreads by {found['band']:.5f} over seeds "
        f"(standard deviation). The difference is **{verdict}** that band.",
        "",
    ]


register_piece(Piece("losses", run, page))
