"""Products of a step by Triton, with the norm before them as a kernel of its own.

Where a product has many programs, each of which would normalise all rows again, the
norm apart is cheaper. The gate after a product and the residual stay part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.norm.fused import rms_norm
from lumina.ops.one_token import products
from lumina.ops.one_token.products import ROWS, linear_add

__all__ = ["linear_add", "norm_linear", "norm_swiglu"]


def norm_linear(
    x_bd: Tensor,
    scale: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None = None,
    out: torch.dtype | None = None,
    rows: int = ROWS,
) -> Tensor:
    """As the reference; `rows` are those of a tile."""
    normal_bd = rms_norm(x_bd, scale, eps)
    return products.linear(normal_bd, weight, bias, out, rows)


def norm_swiglu(
    x_bd: Tensor, scale: Tensor, eps: float, gate_up: Tensor, rows: int = ROWS
) -> Tensor:
    """As the reference; `rows` are those of a tile."""
    return products.swiglu(rms_norm(x_bd, scale, eps), gate_up, rows)
