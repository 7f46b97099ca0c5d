"""The nearest orthogonal matrix, by odd polynomials of the matrix (Newton-Schulz)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Polynomials(NamedTuple):
    """Polynomials a x + b x^3 + c x^5 that follow each other.

    Attributes:
        coefficients: (a, b, c) of each; the last one stands for all that follow.
        margin: by what more than its norm a matrix is divided first.
    """

    coefficients: tuple[tuple[float, float, float], ...]
    margin: float = 1.0


_POLAR = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_SAFETY = 1.01

POLYNOMIALS = {
    "quintic": Polynomials(((3.4445, -4.7750, 2.0315),)),
    "polar_express": Polynomials(
        (
            *((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR),
            (1.875, -1.25, 0.375),
        ),
        _SAFETY,
    ),
}
"""quintic (Jordan et al., 2024) is steep at 0: singular values end between 0.7 and 1.2
or so. polar_express (Amsel et al., 2025, arXiv:2505.16932) takes the best polynomial
for each iteration, for singular values from 0.001: they end near 1. Its safety factor
keeps the rounding of bfloat16 from leaving the range in which the polynomials
converge."""

PART_BYTES = 256 * 2**20
"""Most bytes of float32 matrices that are multiplied together."""


def orthogonalised(matrices: Tensor, polynomial: str, iterations: int) -> Tensor:
    """For each matrix U S V^T: about U V^T, in float32.

    The products are in bfloat16 on CUDA, where the polynomials tolerate it, and in
    float32 on the CPU.

    Args:
        matrices: [..., rows, columns] float32.
        polynomial: a key of `POLYNOMIALS`.
        iterations: how many polynomials follow each other.
    """
    stack = matrices.flatten(0, -3) if matrices.ndim > 2 else matrices[None]
    size = max(1, 4 * stack.shape[-2] * stack.shape[-1])
    parts = stack.split(max(1, PART_BYTES // size)) if len(stack) else [stack]
    found = [_iterated(part, POLYNOMIALS[polynomial], iterations) for part in parts]
    return torch.cat(found).view(matrices.shape)


def _iterated(matrices: Tensor, polynomials: Polynomials, iterations: int) -> Tensor:
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = x / (norm * polynomials.margin + 1e-7)
    if x.device.type == "cuda":
        x = x.bfloat16()
    steps = polynomials.coefficients
    for number in range(iterations):
        a, b, c = steps[min(number, len(steps) - 1)]
        square = x @ x.mT
        mixed = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, mixed, x, beta=a)
    return (x if wide else x.mT).float()
