"""What the device does at most: large products and large copies."""

from __future__ import annotations

from typing import Any

from lumina.measure.bench.ceilings import measure_ceilings
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import free, planned


def run(asked: Asked) -> dict[str, Any]:
    """Measure both in the compute type of the training."""
    plan = planned(asked).plan
    found = measure_ceilings(plan.device, plan.compute_dtype)
    free()
    return found.to_dict()


def page(found: dict[str, Any]) -> list[str]:
    """One sentence."""
    return [
        f"Measured here: products of {found['side']:,} square matrices in "
        f"{found['dtype']} {found['flops'] / 1e12:,.4g} TFLOP/s; copies of "
        f"{found['copied'] / 2**20:,.0f} MiB {found['bandwidth'] / 1e9:,.4g} GB/s, "
        "read and written together.",
        "",
    ]


register_piece(Piece("ceilings", run, page))
