"""Triton's kernels of SwiGLU and RMSNorm as differentiable operators.

Each is one operator to the compiler, which neither looks inside nor fuses around it.
On the CPU the same operators compute operation by operation, which is the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumina.ops.swiglu import reference


@torch.library.custom_op("lumina::swiglu", mutates_args=())
def _swiglu(rows: Tensor) -> Tensor:
    from lumina.ops.swiglu import fused

    out: Tensor = fused.swiglu(rows)
    return out


@torch.library.custom_op("lumina::swiglu_backward", mutates_args=())
def _swiglu_backward(rows: Tensor, gradient: Tensor) -> Tensor:
    from lumina.ops.swiglu import fused

    found: Tensor = fused.swiglu_backward(rows, gradient)
    return found


@torch.library.custom_op("lumina::rms_norms", mutates_args=())
def _norms(rows: list[Tensor], weights: list[Tensor], eps: float) -> list[Tensor]:
    from lumina.ops.norms_together import fused

    outs, scales = fused.norms(rows, weights, eps)
    return [*outs, *scales]


@torch.library.custom_op("lumina::rms_norms_backward", mutates_args=())
def _norms_backward(
    rows: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    scales: list[Tensor],
) -> list[Tensor]:
    from lumina.ops.norms_together import fused

    of_rows, of_weights = fused.norms_backward(rows, weights, gradients, scales)
    return [*of_rows, *of_weights]


@_swiglu.register_kernel("cpu")
def _(rows: Tensor) -> Tensor:
    return reference.swiglu(rows)


@_swiglu_backward.register_kernel("cpu")
def _(rows: Tensor, gradient: Tensor) -> Tensor:
    return reference.swiglu_backward(rows, gradient)


@_norms.register_kernel("cpu")
def _(rows: list[Tensor], weights: list[Tensor], eps: float) -> list[Tensor]:
    scales = [(x.float().square().mean(-1) + eps).rsqrt() for x in rows]
    outs = [
        (x.float() * scale[:, None] * weight.to(x.dtype).float()).to(x.dtype)
        for x, weight, scale in zip(rows, weights, scales, strict=True)
    ]
    return [*outs, *scales]


@_norms_backward.register_kernel("cpu")
def _(
    rows: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    scales: list[Tensor],
) -> list[Tensor]:
    parts = zip(rows, weights, gradients, scales, strict=True)
    found = [_plain_backward(*one) for one in parts]
    return [*(x for x, _ in found), *(w for _, w in found)]


@_swiglu.register_fake
def _(rows: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], rows.shape[1] // 2)


@_swiglu_backward.register_fake
def _(rows: Tensor, gradient: Tensor) -> Tensor:
    return torch.empty_like(rows)


@_norms.register_fake
def _(rows: list[Tensor], weights: list[Tensor], eps: float) -> list[Tensor]:
    outs = [torch.empty_like(one) for one in rows]
    return outs + [one.new_empty(one.shape[0], dtype=torch.float32) for one in rows]


@_norms_backward.register_fake
def _(
    rows: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    scales: list[Tensor],
) -> list[Tensor]:
    return [torch.empty_like(one) for one in (*rows, *weights)]


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, fused_backward: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.fused_backward = fused_backward
        out: Tensor = _swiglu(rows)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        if ctx.fused_backward:
            found: Tensor = _swiglu_backward(rows, gradient.contiguous())
            return found, None
        of_rows: Tensor = reference.swiglu_backward(rows, gradient)
        return of_rows, None


class _Norms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eps: float, fused_backward: bool, *tensors: Tensor) -> Any:
        count = len(tensors) // 2
        rows, weights = list(tensors[:count]), list(tensors[count:])
        found = _norms(rows, weights, eps)
        ctx.save_for_backward(*tensors, *found[count:])
        ctx.count, ctx.fused_backward = count, fused_backward
        return tuple(found[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        count, saved = ctx.count, ctx.saved_tensors
        rows, weights, scales = (
            list(saved[part * count : (part + 1) * count]) for part in range(3)
        )
        given = [one.contiguous() for one in gradients]
        if ctx.fused_backward:
            return (None, None, *_norms_backward(rows, weights, given, scales))
        found = [
            _plain_backward(*one)
            for one in zip(rows, weights, given, scales, strict=True)
        ]
        return (None, None, *(x for x, _ in found), *(w for _, w in found))


def _plain_backward(
    x: Tensor, weight: Tensor, gradient: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of RMSNorm, operation by operation in float32."""
    normed = x.float() * scale[:, None]
    scaled = gradient.float() * weight.to(x.dtype).float()
    along = (scaled * normed).mean(-1, keepdim=True)
    of_x = (scaled - normed * along) * scale[:, None]
    of_weight = (gradient.float() * normed).sum(0)
    return of_x.to(x.dtype), of_weight.to(weight.dtype)


def swiglu(gate_up: Tensor, fused_backward: bool = True) -> Tensor:
    """silu(gate) * up of [..., 2M]; see `lumina.ops.swiglu.reference`.

    Args:
        gate_up: the gate in the first half.
        fused_backward: its gradient is one kernel, too.
    """
    rows = gate_up.reshape(-1, gate_up.shape[-1]).contiguous()
    out: Tensor = _SwiGlu.apply(rows, fused_backward)
    return out.view(*gate_up.shape[:-1], -1)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, fused_backward: bool = True
) -> Tensor:
    """As `lumina.ops.norm.fused.rms_norm`."""
    (out,) = rms_norms((x,), (weight,), eps, fused_backward)
    return out


def rms_norms(
    xs: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    eps: float,
    fused_backward: bool = True,
) -> tuple[Tensor, ...]:
    """RMSNorm of one tensor, or of two of one width at once: queries and keys.

    Args:
        xs: [..., D], of one type.
        weights: [D] of each.
        eps: added to the mean square.
        fused_backward: the gradients are one kernel, too.
    """
    rows = [x.reshape(-1, x.shape[-1]).contiguous() for x in xs]
    found = _Norms.apply(eps, fused_backward, *rows, *weights)
    return tuple(out.view(x.shape) for out, x in zip(found, xs, strict=True))
