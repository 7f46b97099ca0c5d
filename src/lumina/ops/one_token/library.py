"""Products of a step by the device's own library, for more than a few rows.

The library's products (cuBLAS) are faster from a few rows on, even though the norm
before a product and the gate after it are kernels of their own then.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.norm.fused import rms_norm
from lumina.ops.swiglu import reference
from lumina.ops.triton_there import has_triton


def norm_linear(
    x_bd: Tensor,
    scale: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None = None,
    out: torch.dtype | None = None,
) -> Tensor:
    """As the reference; a wider type of the result is not rounded to that of `x_bd`."""
    normal_bd = rms_norm(x_bd, scale, eps)
    if out in (None, x_bd.dtype):
        return F.linear(normal_bd, weight, bias)
    if normal_bd.is_cuda and bias is None:
        return torch.mm(normal_bd, weight.t(), out_dtype=out)
    return F.linear(normal_bd, weight, bias).to(out)


def norm_swiglu(x_bd: Tensor, scale: Tensor, eps: float, gate_up: Tensor) -> Tensor:
    """As the reference."""
    both_bn = F.linear(rms_norm(x_bd, scale, eps), gate_up)
    if both_bn.is_cuda and has_triton():
        from lumina.ops.swiglu import fused

        return fused.swiglu(both_bn)
    return reference.swiglu(both_bn)


def linear_add(x_bd: Tensor, weight: Tensor, residual_bn: Tensor) -> Tensor:
    """As the reference, in the place of the residual and rounded once."""
    return residual_bn.addmm_(x_bd, weight.t())
