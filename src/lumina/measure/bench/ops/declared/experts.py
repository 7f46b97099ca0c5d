"""Routed experts without dropping: dispatch, two products, combination."""

from __future__ import annotations

from typing import Any

import torch

from lumina.measure.bench.ops.op import Op, Shape, Version, Work, normal, register_op
from lumina.ops.moe.grouped import routed_experts as grouped
from lumina.ops.moe.reference import routed_experts as reference


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    width = _width(shape)
    matrices = {
        "gate_up": normal(
            (shape.experts, 2 * width, shape.hidden), device, dtype, 0.02
        ),
        "down": normal((shape.experts, shape.hidden, width), device, dtype, 0.02),
    }
    scores = torch.randn(shape.tokens, shape.experts, device=device).softmax(-1)
    best = scores.topk(shape.top_k, dim=-1)
    return {
        "x_td": normal((shape.tokens, shape.hidden), device, dtype),
        **matrices,
        "ids_tk": best.indices,
        "scores_tk": best.values,
    }


def _width(shape: Shape) -> int:
    """Of an expert: together, those of a token are as wide as a feed-forward."""
    return max(8, shape.ffn // shape.top_k // 8 * 8)


def _work(shape: Shape, size: int) -> Work:
    used = shape.tokens * shape.top_k
    weights = 3 * shape.experts * shape.hidden * _width(shape)
    operations = 6.0 * used * shape.hidden * _width(shape)
    moved = (weights + 2 * shape.tokens * shape.hidden) * size
    return Work(operations, moved, 2 * operations, 2 * moved)


register_op(
    Op(
        "experts", _inputs, Version(reference), {"grouped": Version(grouped)}, _work,
        differentiated=("x_td", "gate_up", "down", "scores_tk"),
    )
)  # fmt: skip
