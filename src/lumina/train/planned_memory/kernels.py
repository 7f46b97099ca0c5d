"""What CUDA's kernels keep and take, said for tensors that have no memory.

PyTorch chooses kernels by the device of a tensor, and a tensor without memory is on
none. So the choices that matter for memory are made here as PyTorch makes them for
CUDA: RMSNorm in one kernel, flash attention without a mask in 16 bits and the
memory-efficient one otherwise, dropout that keeps bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUNDED_TOKENS, _ROUNDED_WIDTH = 128, 32


class _Norm(torch.autograd.Function):
    """RMSNorm that keeps its input and one number of each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, width: int) -> Tensor:
        rest = x.shape[: x.dim() - width]
        scale = x.new_empty((*rest, *[1] * width), dtype=torch.float32)
        ctx.save_for_backward(x, weight, scale)
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight, _ = ctx.saved_tensors
        learns = weight is not None and ctx.needs_input_grad[1]
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        return of_x, torch.empty_like(weight) if learns else None, None


def rms_norm(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`torch.nn.functional.rms_norm` as CUDA's kernel does it."""
    found: Tensor = _Norm.apply(x, weight, len(normalized_shape))
    return found


def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """`torch.nn.functional.dropout` as CUDA's kernel does it: it keeps a mask."""
    if not training or p == 0:
        return x
    kept: Tensor = torch.native_dropout(x, p, True)[0]
    return kept


def cuda_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with the kernel that CUDA would take."""
    width, half = value.shape[-1], query.dtype in (torch.bfloat16, torch.float16)
    if half and attn_mask is None:
        q, k, v = (_to_multiple(x, 8) for x in (query, key, value))
        out = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, dropout_p, is_causal, False
        )[0]
        cut: Tensor = out[..., :width]
        return cut
    if enable_gqa:
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    bias = attn_mask
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype)
        shape = (*query.shape[:3], key.shape[2])
        if bias.shape[-1] % 16:
            bias = F.pad(bias, (0, -bias.shape[-1] % 16))[..., : bias.shape[-1]]
        bias = bias.expand(shape)
    keeps = torch.is_grad_enabled() and any(
        x.requires_grad for x in (query, key, value)
    )
    found: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, keeps, dropout_p, is_causal
    )[0]
    return found


def cpu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with the kernel that a CPU would take."""
    # Heads of keys and values that several heads of queries share are not repeated.
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask
    )[0]
    return found


def _to_multiple(x: Tensor, of: int) -> Tensor:
    return F.pad(x, (0, -x.shape[-1] % of)) if x.shape[-1] % of else x


# Workspaces: what a kernel takes beside its results, in bytes.


def flash_backward(
    grad: Tensor, query: Tensor, key: Tensor, *rest: Any, **options: Any
) -> int:
    """Float32 gradients of the queries, a sum for each, and those of shared keys."""
    rows, heads, length, width = query.shape
    tokens = rows * _up(length, _ROUNDED_TOKENS)
    found = _accumulators(tokens, heads, width)
    if key.shape[1] != heads:
        found += 2 * rows * key.shape[2] * heads * width * key.element_size()
    return found


def varlen_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_seq_q: Tensor,
    *rest: Any,
    **options: Any,
) -> int:
    """The same of documents laid end to end, each rounded up by itself."""
    tokens, heads, width = query.shape
    rounded = _up(tokens + _ROUNDED_TOKENS * (cu_seq_q.numel() - 1), _ROUNDED_TOKENS)
    found = _accumulators(rounded, heads, width)
    if key.shape[1] != heads:
        found += 2 * key.shape[0] * heads * width * key.element_size()
    return found


def efficient_backward(
    grad: Tensor, query: Tensor, key: Tensor, *rest: Any, **options: Any
) -> int:
    """Sums of each query, and in 16 bits float32 gradients of the queries."""
    rows, heads, length, width = query.shape
    sums = 4 * rows * heads * _up(length, 32)
    if query.element_size() == 4:
        return sums
    return sums + 4 * rows * heads * _up(length, 64) * _up(width, _ROUNDED_WIDTH)


def _accumulators(tokens: int, heads: int, width: int) -> int:
    wide = _up(width, _ROUNDED_WIDTH) if width <= 128 else _up(width, 64)
    return 4 * tokens * heads * (wide + 1)


def _up(number: int, of: int) -> int:
    return math.ceil(number / of) * of


def workspaces() -> dict[Any, Any]:
    """Operator -> what its kernel takes meanwhile, on CUDA."""
    import torch.nn.attention.varlen  # registers its operators

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_backward.default: flash_backward,
        aten._scaled_dot_product_efficient_attention_backward.default: (
            efficient_backward
        ),
        torch.ops.torch_attn._varlen_attn_backward.default: varlen_backward,
    }


def softmax_gradient(
    logits_cv: Tensor,
    labels_c: Tensor,
    counted_c: Tensor,
    vocab_size: int,
    grad_cv: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`lumina.ops.cross_entropy.fused.softmax_gradient`, as far as memory goes."""
    losses = torch.empty_like(labels_c, dtype=torch.float32)
    return losses, torch.empty_like(losses), torch.empty_like(losses)


def nothing(*arguments: Any, **options: Any) -> None:
    """A kernel that changes tensors in place."""
