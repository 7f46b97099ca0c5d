"""PyTorch's memory-efficient kernel: float32, and GPUs older than Ampere."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.attention.block_kernels.table import BlockKernel, register

_ALIGNED = 32
"""Sums of a head are kept for a multiple of this many queries."""


def _fits(q: Tensor, packed: bool) -> bool:
    return q.is_cuda and q.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _run(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> list[Tensor]:
    k, v = _repeated(q, k, v)
    found: list[Tensor] = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, None, True, 0.0, causal, scale=scale
    )
    return found


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values for each head of queries: the kernel does not share them."""
    group = q.shape[1] // k.shape[1]
    if group == 1:
        return k, v
    return k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)


def _forward(
    q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    out, sums, *_ = _run(q_bhsd, k_bktd, v_bktd, causal, scale)
    return out, sums[..., : q_bhsd.shape[2]]


def _backward(
    grad_bhsd: Tensor,
    q_bhsd: Tensor,
    k_bktd: Tensor,
    v_bktd: Tensor,
    out_bhsd: Tensor,
    sums_bhs: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    # Without dropout the random state is not used, but has to be of the right kind.
    one = q_bhsd[:1, :1, :1]
    _, _, seed, offset = _run(one, one, one, False, scale)
    keys, values = _repeated(q_bhsd, k_bktd, v_bktd)
    missing = -sums_bhs.shape[2] % _ALIGNED
    found = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad_bhsd,
        q_bhsd,
        keys,
        values,
        None,
        out_bhsd,
        F.pad(sums_bhs, (0, missing), value=math.inf).contiguous(),
        seed,
        offset,
        0.0,
        [True, True, True, False],
        causal,
        scale=scale,
    )
    heads = k_bktd.shape[1]
    grad_k, grad_v = (x.unflatten(1, (heads, -1)).sum(2) for x in found[1:3])
    return found[0], grad_k, grad_v


register(BlockKernel("efficient", 2, _fits, _forward, _backward))
