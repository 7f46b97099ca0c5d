"""Causal attention of whole rows, grouped queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lumina.measure.bench.ops.op import (
    Op,
    Shape,
    Version,
    Work,
    normal,
    register_op,
    wants_cuda_half,
)
from lumina.ops.attention.dispatch import Pattern, attend


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    rows = shape.rows, shape.length
    return {
        "q": normal((*rows, shape.heads, shape.head_dim), device, dtype),
        "k": normal((*rows, shape.kv_heads, shape.head_dim), device, dtype),
        "v": normal((*rows, shape.kv_heads, shape.head_dim), device, dtype),
    }


def _by(backend: str) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pattern = Pattern(backend)
        if backend == "varlen":
            rows, length = q.shape[:2]
            starts = torch.arange(
                0, (rows + 1) * length, length, dtype=torch.int32, device=q.device
            )
            pattern = Pattern(backend, None, starts, length)
        return attend(q, k, v, pattern)

    return run


def _work(shape: Shape, size: int) -> Work:
    pairs = shape.rows * shape.length**2 / 2
    operations = 4 * pairs * shape.heads * shape.head_dim
    width = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    moved = shape.tokens * width * size
    return Work(operations, moved, 2.5 * operations, 2 * moved)


register_op(
    Op(
        "attention",
        _inputs,
        Version(_by("reference")),
        {
            "sdpa": Version(_by("sdpa")),
            "varlen": Version(_by("varlen"), wants_cuda_half),
            "blockwise": Version(_by("blockwise")),
        },
        _work,
        differentiated=("q", "k", "v"),
    )
)
