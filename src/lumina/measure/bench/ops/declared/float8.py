"""The product of a linear layer in float8, as training computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.measure.bench.ops.op import Op, Shape, Version, Work, normal, register_op
from lumina.ops.float8.linear import linear


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "x": normal((shape.tokens, shape.hidden), device, dtype),
        "weight": normal((shape.ffn, shape.hidden), device, dtype, 0.02),
    }


def _by(way: str) -> Callable[..., Tensor]:
    def run(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x, weight, way)

    return run


def _needs(device: str, dtype: torch.dtype) -> str:
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        return "needs compute capability 8.9"
    return "" if dtype == torch.bfloat16 else "needs bfloat16"


def _work(shape: Shape, size: int) -> Work:
    # Against the ceiling of products in the compute type: a share above 1 is a gain.
    product = 2.0 * shape.tokens * shape.hidden * shape.ffn
    moved = (
        shape.tokens * (shape.hidden + shape.ffn) + shape.ffn * shape.hidden
    ) * size
    return Work(product, moved, 2 * product, 2 * moved)


register_op(
    Op(
        "float8",
        _inputs,
        Version(lambda x, weight: F.linear(x, weight)),
        {way: Version(_by(way), _needs) for way in ("e4m3", "hybrid")},
        _work,
        differentiated=("x", "weight"),
    )
)
