"""Cross entropy of a linear head: its product, the softmax and the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumina.measure.bench.ops.op import Op, Shape, Version, Work, normal, register_op
from lumina.ops.cross_entropy.chunked import cross_entropy as chunked
from lumina.ops.cross_entropy.reference import cross_entropy as reference

CHUNK = 256 * 2**20
"""Most bytes of logits of the version in chunks."""


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    size = (shape.tokens,)
    return {
        "hidden": normal((shape.tokens, shape.hidden), device, dtype),
        "weight": normal((shape.vocabulary, shape.hidden), device, dtype, 0.02),
        "labels": torch.randint(0, shape.vocabulary, size, device=device),
    }


def _plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return reference(hidden, weight, labels, None, weight.shape[0])


def _chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return chunked(hidden, weight, labels, None, weight.shape[0], CHUNK).loss


def _work(shape: Shape, size: int) -> Work:
    product = 2.0 * shape.tokens * shape.hidden * shape.vocabulary
    moved = (shape.tokens + shape.vocabulary) * shape.hidden * size
    return Work(product, moved, 2 * product, 2 * moved)


register_op(
    Op(
        "cross_entropy", _inputs, Version(_plain), {"chunked": Version(_chunked)},
        _work, differentiated=("hidden", "weight"),
    )
)  # fmt: skip
