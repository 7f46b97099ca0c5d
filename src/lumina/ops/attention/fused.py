"""Attention through PyTorch's fused kernels: SDPA, and variable length on CUDA.

Where a kernel shares key/value heads itself (grouped queries), nothing is expanded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.torch_version import TorchVersion

_ASKS_FOR_GQA = TorchVersion(torch.__version__) >= "2.12"
"""Before, variable-length attention needs no asking for grouped queries."""

CUDNN_FROM = (9, 0)
"""The compute capability from which cuDNN's kernel is ahead of FlashAttention-2's. On
an H200 (32 heads of 128, 8 of keys, causal) it takes 0.51 of its time forwards and 0.58
backwards at 4,096 tokens, 0.52 and 0.60 at 34,816 (docs/attention.md)."""

_BY_SPEED = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

_cudnn_first = False


def prefer_cudnn(wanted: bool) -> None:
    """For this process: let cuDNN compute causal attention where its kernel is faster.

    torch itself takes its flash kernel first. Where cuDNN cannot (other types or heads,
    deterministic algorithms), torch goes on to the next kernel.
    """
    global _cudnn_first
    _cudnn_first = bool(
        wanted
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability() >= CUDNN_FROM
    )


def sdpa(
    q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, mask: Tensor | None, causal: bool
) -> Tensor:
    """Scaled dot product attention.

    On CUDA the only fused kernel for masks and for float32 does not share key/value
    heads itself; there they are repeated, which costs far less than holding all scores.

    Args:
        q_bhsd: [B, H, S, head_dim].
        k_bktd: [B, K, T, head_dim]; `v_bktd` alike.
        mask: bool or additive, broadcast to [B, 1, S, T], or None.
        causal: without a mask: causal order (S equals T), else every key is seen.

    Returns:
        [B, H, S, head_dim].
    """
    full = q_bhsd.dtype == torch.float32
    group = q_bhsd.shape[1] // k_bktd.shape[1]
    if group > 1 and q_bhsd.is_cuda and (mask is not None or full):
        k_bktd = k_bktd.repeat_interleave(group, dim=1)
        v_bktd = v_bktd.repeat_interleave(group, dim=1)
        group = 1
    shared = bool(group > 1)  # traced sizes are tensors
    if _cudnn_first and causal and mask is None and q_bhsd.is_cuda and not full:
        with sdpa_kernel(_BY_SPEED, set_priority=True):
            return F.scaled_dot_product_attention(
                q_bhsd, k_bktd, v_bktd, is_causal=True, enable_gqa=shared
            )
    return F.scaled_dot_product_attention(
        q_bhsd,
        k_bktd,
        v_bktd,
        attn_mask=mask,
        is_causal=causal and mask is None,
        enable_gqa=shared,
    )


def varlen(
    q_thd: Tensor,
    k_tkd: Tensor,
    v_tkd: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window: int,
) -> Tensor:
    """Causal attention within documents laid end to end (CUDA, half precision).

    Args:
        q_thd: [T, H, head_dim], all rows of the batch flattened.
        k_tkd: [T, K, head_dim]; `v_tkd` alike.
        cu_seqlens: [N + 1] int32 document starts, closed by T.
        max_seqlen: at least the longest document.
        window: a token sees itself and the window - 1 before it; 0: all.

    Returns:
        [T, H, head_dim].
    """
    # Only here, since this module loads torch's compiler, which takes seconds.
    from torch.nn.attention.varlen import varlen_attn

    # The kernel counts the keys to the left, the query itself not among them.
    options: dict[str, Any] = {"window_size": (window - 1 if window else -1, 0)}
    if _ASKS_FOR_GQA:
        options["enable_gqa"] = q_thd.shape[1] != k_tkd.shape[1]
    out = varlen_attn(
        q_thd, k_tkd, v_tkd, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options
    )
    assert isinstance(out, Tensor)
    return out


def varlen_fits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel takes such tensors."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
