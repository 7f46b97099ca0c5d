"""Every op beside its reference, on the shape of the training."""

from __future__ import annotations

from typing import Any

import torch

from lumina.measure.bench.ceilings import Ceilings
from lumina.measure.bench.ops.measure import measure_op
from lumina.measure.bench.ops.op import OPS, chosen_op
from lumina.train.prove.floor import shape_of
from lumina.train.prove.markdown import milliseconds, table
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import free, planned


def run(asked: Asked) -> dict[str, Any] | None:
    """Measure all."""
    plan = planned(asked).plan
    ceilings = Ceilings(**asked.done["ceilings"])
    found = []
    for name in OPS.known():
        if asked.stopped():
            return None
        asked.tell(f"ops: {name}")
        found.append(
            measure_op(
                chosen_op(name),
                shape_of(plan),
                plan.device,
                getattr(torch, plan.compute_dtype),
                ceilings,
                rounds=asked.amounts.rounds,
            )
        )
        free()
    return {"ops": found}


def page(found: dict[str, Any]) -> list[str]:
    """A row for each version."""
    rows = [
        [
            op["op"],
            one["version"],
            milliseconds(one["seconds"]),
            "-" if one["share"] is None else f"{one['share']:.0%}",
            "-" if one["error"] is None else f"{one['error']:.1e}",
            milliseconds(one["backward_seconds"]),
            one["problem"],
        ]
        for op in found["ops"]
        for one in op["versions"]
    ]
    head = ("op", "version", "forward", "of floor", "error", "with backward", "")
    return table(head, rows)


register_piece(Piece("ops", run, page, after=("ceilings",)))
