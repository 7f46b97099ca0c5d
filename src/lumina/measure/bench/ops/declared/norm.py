"""RMSNorm."""

from __future__ import annotations

from typing import Any

import torch

from lumina.measure.bench.ops.op import Op, Shape, Version, Work, normal, register_op
from lumina.ops.norm.fused import rms_norm as fused
from lumina.ops.norm.reference import rms_norm as reference


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    x = normal((shape.tokens, shape.hidden), device, dtype)
    weight = 1 + 0.1 * torch.randn(shape.hidden, device=device)
    return {"x": x, "weight": weight, "eps": 1e-6}


def _work(shape: Shape, size: int) -> Work:
    values = shape.tokens * shape.hidden
    return Work(4 * values, 2 * values * size, 8 * values, 3 * values * size)


register_op(
    Op(
        "norm", _inputs, Version(reference), {"fused": Version(fused)}, _work,
        differentiated=("x", "weight"),
    )
)  # fmt: skip
