"""The least time of a step, from operations and bytes over the measured ceilings."""

from __future__ import annotations

from typing import Any

from lumina.measure.bench.ceilings import Ceilings
from lumina.train.prove.floor import floor_of
from lumina.train.prove.markdown import milliseconds, table
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import free, planned


def run(asked: Asked) -> dict[str, Any]:
    """Count, and measure the attention of one layer."""
    plan = planned(asked).plan
    lines = floor_of(plan, Ceilings(**asked.done["ceilings"]))
    free()
    whole = sum(line["seconds"] for line in lines)
    step = asked.done["speed"]["step"]["median"]
    tokens = asked.done["speed"]["tokens_per_step"]
    return {
        "lines": lines,
        "seconds": whole,
        "tokens_per_second": tokens / whole,
        "step_seconds": step,
        "share": whole / step,
    }


def page(found: dict[str, Any]) -> list[str]:
    """A row for each part, and the sum beside what was measured."""
    rows = [
        [
            line["what"],
            f"{line['operations']:.4g}",
            f"{line['bytes']:.4g}",
            milliseconds(line["seconds"]),
            line["why"],
        ]
        for line in found["lines"]
    ]
    return [
        *table(("part", "operations", "bytes", "at least", "counted as"), rows),
        f"Together {milliseconds(found['seconds'])} a step, "
        f"{found['tokens_per_second']:,.0f} tokens/s. Measured: "
        f"{milliseconds(found['step_seconds'])}, so that {found['share']:.0%} of the "
        "time is the floor. Nothing is assumed to overlap. Ceilings are measured while "
        "nothing else of this training runs; on a machine that others use they move.",
        "",
    ]


register_piece(Piece("floor", run, page, after=("ceilings", "speed")))
