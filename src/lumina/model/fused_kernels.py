"""Blocks whose SwiGLU and norms are Triton's kernels, forwards and backwards."""

from __future__ import annotations

from functools import partial
from typing import Any

from lumina.model.attention import Attention
from lumina.model.layers import FeedForward, ProjectionNorm, RMSNorm
from lumina.model.moe import MoeFeedForward
from lumina.model.network import Network
from lumina.ops.moe import grouped
from lumina.ops.norms_together import operators as fused_kernels

WIDEST = 16_384
"""A row of a norm has to fit into a program of its kernel."""


def use_fused_kernels(network: Network, plan: Any) -> None:
    """Let the blocks' SwiGLU, their norms and those of queries and keys be kernels.

    Rows wider than a kernel takes, and norms that are no RMSNorm of a head, stay as
    they are.

    Args:
        network: is changed in place.
        plan: its `plain_backwards` names kernels whose gradient is computed operation
            by operation: "swiglu", "rms_norm", "qk_norm".
    """
    plain = set(plan.plain_backwards)
    swiglu = partial(fused_kernels.swiglu, fused_backward="swiglu" not in plain)
    norm = partial(fused_kernels.rms_norm, fused_backward="rms_norm" not in plain)
    both = partial(fused_kernels.rms_norms, fused_backward="qk_norm" not in plain)
    heads = set()
    for module in network.backbone.modules():
        if isinstance(module, FeedForward):
            module.activation = swiglu
        elif isinstance(module, MoeFeedForward) and _dropless(module):
            module.experts = partial(module.experts, activation=swiglu)
        elif isinstance(module, Attention) and _norms_of_heads(module):
            module.norms_together = both
            heads |= {module.q_norm, module.k_norm}
    for module in network.backbone.modules():
        if isinstance(module, RMSNorm) and module not in heads and _fits(module):
            module.function = norm


def _dropless(module: MoeFeedForward) -> bool:
    function = getattr(module.experts, "func", module.experts)
    return function is grouped.routed_experts


def _norms_of_heads(module: Attention) -> bool:
    norms = (module.q_norm, module.k_norm)
    return all(type(one) is RMSNorm for one in norms)


def _fits(module: RMSNorm) -> bool:
    return not isinstance(module, ProjectionNorm) and module.weight.shape[0] <= WIDEST
