"""SwiGLU's product and its gradient, one kernel each (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _forward_kernel(
    gate_up_ptr, out_ptr, width, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate_up_ptr += row * 2 * width
    gate = tl.load(gate_up_ptr + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + width + column, mask=inside, other=0.0).to(tl.float32)
    # The activation is rounded before it is multiplied, as silu by itself would be.
    act = (gate * tl.sigmoid(gate)).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * width + column, act * up, mask=inside)


@triton.jit
def _backward_kernel(
    gate_up_ptr, grad_ptr, of_gate_up_ptr, width, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate_up_ptr += row * 2 * width
    of_gate_up_ptr += row * 2 * width
    gate = tl.load(gate_up_ptr + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + width + column, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * width + column, mask=inside, other=0.0)
    grad = grad.to(tl.float32)
    share = tl.sigmoid(gate)
    of_gate = grad * up * share * (1.0 + gate * (1.0 - share))
    tl.store(of_gate_up_ptr + column, of_gate, mask=inside)
    tl.store(of_gate_up_ptr + width + column, grad * gate * share, mask=inside)


def swiglu(gate_up: Tensor) -> Tensor:
    """As the reference, on contiguous rows [N, 2M]."""
    rows, both = gate_up.shape
    width = both // 2
    out = gate_up.new_empty(rows, width)
    if out.numel():
        grid = (rows, triton.cdiv(width, BLOCK))
        _forward_kernel[grid](gate_up, out, width, BLOCK=BLOCK)
    return out


def swiglu_backward(gate_up: Tensor, gradient: Tensor) -> Tensor:
    """As the reference, on contiguous rows [N, 2M] and [N, M]."""
    found = torch.empty_like(gate_up)
    rows, width = gradient.shape
    if gradient.numel():
        grid = (rows, triton.cdiv(width, BLOCK))
        _backward_kernel[grid](gate_up, gradient, found, width, BLOCK=BLOCK)
    return found
