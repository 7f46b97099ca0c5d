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

WORKSPACE = 8
"""Bytes for each number of the queries that the kernels' backward passes take beside
gradients: sums in float32 of queries' gradients, and as much again for keys and values
that heads of queries share (33 KiB a token with 32 heads of 128 on an H200)."""

AT_ONCE = 2**30
"""Most bytes of this workspace: longer rows take their heads in groups."""

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


def cudnn_first() -> bool:
    """Whether cuDNN computes attention: preferred, and not forbidden by determinism."""
    return _cudnn_first and not torch.are_deterministic_algorithms_enabled()


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
    if causal and mask is None and q_bhsd.is_cuda and not full:
        return _causal(q_bhsd, k_bktd, v_bktd)
    return F.scaled_dot_product_attention(
        q_bhsd,
        k_bktd,
        v_bktd,
        attn_mask=mask,
        is_causal=causal and mask is None,
        enable_gqa=shared,
    )


def _causal(q_bhsd: Tensor, k_bhsd: Tensor, v_bhsd: Tensor) -> Tensor:
    """Causal attention whose backward pass takes no more than `AT_ONCE` beside."""
    parts = groups_of_heads(q_bhsd.numel(), k_bhsd.shape[1])
    each = [one.chunk(parts, dim=1) for one in (q_bhsd, k_bhsd, v_bhsd)]
    found = [_fastest(q, k, v) for q, k, v in zip(*each, strict=True)]
    return found[0] if parts == 1 else torch.cat(found, dim=1)


def groups_of_heads(numbers: int, keys: int) -> int:
    """In how many groups of equally many heads causal attention is computed.

    Args:
        numbers: of all queries.
        keys: heads of keys, which divide the heads of queries.
    """
    wanted = min(keys, -(-numbers * WORKSPACE // AT_ONCE))
    return next(n for n in range(max(wanted, 1), keys + 1) if keys % n == 0)


def _fastest(q_bhsd: Tensor, k_bhsd: Tensor, v_bhsd: Tensor) -> Tensor:
    """Causal attention by the kernel that is ahead on this device."""
    shared = q_bhsd.shape[1] != k_bhsd.shape[1]
    if not _cudnn_first:
        return F.scaled_dot_product_attention(
            q_bhsd, k_bhsd, v_bhsd, is_causal=True, enable_gqa=shared
        )
    # cuDNN takes no views of a larger tensor, such as heads of one product.
    q, k, v = (
        one.transpose(1, 2).contiguous().transpose(1, 2)
        for one in (q_bhsd, k_bhsd, v_bhsd)
    )
    with sdpa_kernel(_BY_SPEED, set_priority=True):
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=shared
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
    parts = groups_of_heads(q_thd.numel(), k_tkd.shape[1])
    found = []
    each = (one.chunk(parts, dim=1) for one in (q_thd, k_tkd, v_tkd))
    for q, k, v in zip(*each, strict=True):
        out = varlen_attn(
            q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options
        )
        assert isinstance(out, Tensor)
        found.append(out)
    return found[0] if parts == 1 else torch.cat(found, dim=1)


def varlen_fits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel takes such tensors."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
