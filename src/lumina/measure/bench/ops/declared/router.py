"""The logits of a router, exact as in float32."""

from __future__ import annotations

from typing import Any

import torch

from lumina.measure.bench.ops.op import (
    Op,
    Shape,
    Version,
    Work,
    normal,
    register_op,
    wants_cuda,
)
from lumina.ops.router.reference import router_linear as reference
from lumina.ops.router.split import split_linear


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "x": normal((shape.tokens, shape.hidden), device, dtype),
        "weight": normal((shape.experts, shape.hidden), device, torch.float32, 0.02),
    }


def _needs(device: str, dtype: torch.dtype) -> str:
    bfloat16 = "" if dtype == torch.bfloat16 else "needs bfloat16"
    return wants_cuda(device, dtype) or bfloat16


def _work(shape: Shape, size: int) -> Work:
    product = 2.0 * shape.tokens * shape.hidden * shape.experts
    moved = shape.tokens * shape.hidden * size + shape.tokens * shape.experts * 4
    return Work(product, moved, 2 * product, 2 * moved)


register_op(
    Op(
        "router",
        _inputs,
        Version(lambda x, weight: reference(x, weight)),
        {"split": Version(lambda x, weight: split_linear(x, weight), _needs)},
        _work,
        differentiated=("x", "weight"),
    )
)
