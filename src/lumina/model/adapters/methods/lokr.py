"""LoKr: a Kronecker product of a small and a larger matrix (arXiv:2309.14859)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.model.adapters.method import Asked, Leaf, Method, Tensors
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import register
from lumina.model.tensors import ZEROS, uniform


def divided(size: int) -> tuple[int, int]:
    """Two factors of a size, the smaller first, as near to each other as can be."""
    small = next(d for d in range(math.isqrt(size), 0, -1) if size % d == 0)
    return small, size // small


class Lokr(Method):
    """W + scale * W1 (x) W2 (Yeh et al., 2023).

    W1 [out1, in1] is whole; W2 [out2, in2] is a product of [out2, rank] and [rank, in2]
    where the rank is less than half of its longer side, else whole.
    """

    name = "lokr"
    words = "LoKr"

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """W1, which begins at zero, and W2 or its two factors."""
        *experts, outputs, inputs = site.shape
        expert = site.axes[:-2]
        (out1, out2), (in1, in2) = divided(outputs), divided(inputs)

        def leaf(name: str, rows: int, columns: int, zero: bool = False) -> Leaf:
            first = ZEROS if zero else uniform(1 / math.sqrt(columns))
            shape = (*experts, rows, columns)
            return Leaf(
                name, shape, (*expert, f"{name}_rows", f"{name}_columns"), first
            )

        w1 = leaf("w1", out1, in1, zero=True)
        if rank < max(out2, in2) / 2:
            return (w1, leaf("w2_a", out2, rank), leaf("w2_b", rank, in2))
        return (w1, leaf("w2", out2, in2))

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """The Kronecker product, of each expert apart."""
        w1, w2 = _whole(tensors, "w1"), _whole(tensors, "w2")
        product = torch.einsum("...ij,...kl->...ikjl", w1, w2)
        return scale * product.flatten(-4, -3).flatten(-2, -1)

    def change(self, asked: Asked) -> Tensor:
        """W2 on each part of the input, then W1 across the parts."""
        tensors = asked.tensors
        if next(iter(tensors.values())).ndim > 2:
            return super().change(asked)
        w1, w2 = _whole(tensors, "w1"), _whole(tensors, "w2")
        parts = asked.x.unflatten(-1, (w1.shape[1], w2.shape[1]))
        inner = asked.product(parts, w2) * asked.scale  # [..., in1, out2]
        return asked.product(inner.mT, w1).mT.flatten(-2)


def _whole(tensors: Tensors, name: str) -> Tensor:
    """One of the two matrices, which may be a product; float32."""
    if name in tensors:
        return tensors[name].float()
    return tensors[f"{name}_a"].float() @ tensors[f"{name}_b"].float()


register(Lokr())
