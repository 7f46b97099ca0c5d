"""The principal part of a matrix: the product of given rank that is nearest to it."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT = 1024
"""Up to this shorter side the whole decomposition is computed."""

MORE, ROUNDS = 16, 8
"""Beyond it: this many more directions than asked for, and rounds of iteration."""


def principal(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B [..., out, rank] and A [..., rank, in], whose product is nearest to a matrix.

    Both carry the root of the singular values. Large matrices are decomposed within a
    random subspace that was brought near to the principal one by iteration (Halko et
    al., 2011, arXiv:0909.4061), with the same random numbers every time.

    Args:
        matrix: [..., out, in], float32.
        rank: at most the shorter side.
    """
    if min(matrix.shape[-2:]) <= EXACT:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        generator = torch.Generator().manual_seed(0)
        width = min(rank + MORE, *matrix.shape[-2:])
        shape = (*matrix.shape[:-2], matrix.shape[-1], width)
        basis = matrix @ torch.randn(shape, generator=generator).to(matrix.device)
        for _ in range(ROUNDS):
            basis = torch.linalg.qr(basis).Q
            basis = matrix @ torch.linalg.qr(matrix.mT @ basis).Q
        basis = torch.linalg.qr(basis).Q
        inner, values, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
        left = basis @ inner
    root = values[..., :rank].sqrt()
    return left[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * right[
        ..., :rank, :
    ]
