"""The product with a frozen matrix in few bits; its error is that of the rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.measure.bench.ops.op import Op, Shape, Version, Work, normal, register_op
from lumina.ops.low_bits.codec import found_codec
from lumina.ops.low_bits.product import product

CODECS = ("fp8", "int8", "int4", "nf4", "nf4_double")


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    weight = normal((shape.ffn, shape.hidden), device, dtype, 0.02)
    packed = {name: found_codec(name).pack(weight.float()) for name in CODECS}
    x = normal((shape.tokens, shape.hidden), device, dtype)
    return {"x": x, "weight": weight, "packed": packed}


def _plain(x: Tensor, weight: Tensor, packed: dict[str, Any]) -> Tensor:
    return F.linear(x, weight)


def _by(name: str) -> Callable[..., Tensor]:
    def run(x: Tensor, weight: Tensor, packed: dict[str, Any]) -> Tensor:
        return product(x, [packed[name]])

    return run


def _work(shape: Shape, size: int) -> Work:
    operations = 2.0 * shape.tokens * shape.hidden * shape.ffn
    # The matrix counts as four bits, though some hold it in eight.
    moved = shape.hidden * shape.ffn / 2
    moved += shape.tokens * (shape.hidden + shape.ffn) * size
    return Work(operations, moved, operations, moved)


register_op(
    Op(
        "low_bits",
        _inputs,
        Version(_plain),
        {name: Version(_by(name)) for name in CODECS},
        _work,
        differentiated=("x",),
    )
)
