"""Operations of a profile, in groups that a person thinks in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

GROUPS: tuple[tuple[str, str], ...] = (
    ("attention", r"flash|fmha|attention|sdpa|cudnn_generated_fort|mha"),
    ("optimizer", r"adam|lion|muon|multi_tensor|foreach|newton"),
    ("products", r"gemm|cutlass|cublas|nvjet|xmma|addmm|\bmm\b|bmm|matmul|mkldnn_linear"
     r"|grouped_mm|linear|einsum"),
    ("loss", r"softmax_gradient|log_softmax|nll_loss|cross_?entropy|logsumexp"),
    ("norms", r"rms_norm|layer_norm|rsqrt|norm"),
    ("gathering", r"embedding|index|gather|scatter|sort|searchsorted|topk|permute_"),
    ("copies", r"memcpy|memset|copy_|_to_copy|\bcat\b|contiguous|clone|fill_|zero_"),
    ("exchange", r"nccl|all_reduce|all_gather|reduce_scatter|c10d"),
    ("elementwise", r"triton|elementwise|vectorized|silu|sigmoid|\bmul|\badd|\bsub"
     r"|\bdiv|\bpow|\bneg|\bexp|\bcos|\bsin|where|sum|reduce|mean|clamp|\bmax|\bmin|lerp"),
)  # fmt: skip
"""Group -> what the names of its operations match, the first that does."""

OTHER = "other"


def group_of(name: str) -> str:
    """The group of an operation or a kernel."""
    for group, pattern in GROUPS:
        if re.search(pattern, name, re.IGNORECASE):
            return group
    return OTHER


def grouped(operations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds of a step by group, the longest first, with their longest operations."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in operations:
        found.setdefault(group_of(one["name"]), []).append(one)
    whole = sum(one["seconds"] for ones in found.values() for one in ones) or 1.0
    rows = [
        {
            "group": group,
            "seconds": sum(one["seconds"] for one in ones),
            "share": sum(one["seconds"] for one in ones) / whole,
            "longest": [one["name"][:80] for one in ones[:3]],
        }
        for group, ones in found.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])
