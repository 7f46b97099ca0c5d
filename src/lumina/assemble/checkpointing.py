"""Activation checkpointing of blocks, without changing a parameter's name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lumina.model.network import Network
from lumina.plan.plan import Plan

_SAVED_NAMES = (
    ("aten", "mm"),
    ("aten", "addmm"),
    ("aten", "bmm"),
    ("aten", "_grouped_mm"),
    ("lumina", "rounded_product"),
    ("lumina", "blockwise_attention"),
    ("aten", "_scaled_dot_product_flash_attention"),
    ("aten", "_scaled_dot_product_flash_attention_for_cpu"),
    ("aten", "_scaled_dot_product_efficient_attention"),
    ("aten", "_scaled_dot_product_cudnn_attention"),
    ("torch_attn", "_varlen_attn"),
)
"""Selective checkpointing keeps the outputs of products and attention, the costly
part, and recomputes norms, rotations, activations and copies (Korthikanti et al. 2022
keep everything but attention's inside, which fused attention already recomputes)."""


def _saved_operators() -> frozenset[Any]:
    """The operators of `_SAVED_NAMES` that this torch has."""
    for module in ("torch.nn.attention.varlen", "lumina.ops.moe.segments"):
        importlib.import_module(module)  # registers its operator
    found = []
    for namespace, name in _SAVED_NAMES:
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is not None:
            found += [getattr(packet, overload) for overload in packet.overloads()]
    return frozenset(found)


def _selective_contexts() -> tuple[Any, Any]:
    saved = _saved_operators()

    def policy(ctx: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if operator in saved:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    contexts: tuple[Any, Any] = create_selective_checkpoint_contexts(policy)
    return contexts


def recompute(network: Network, plan: Plan) -> None:
    """What the features of checkpointing do to a network (`Feature.build`)."""
    checkpoint_blocks(network.backbone.blocks, plan.gradient_checkpointing)


def checkpoint_blocks(blocks: nn.ModuleList, mode: str) -> None:
    """Make every block recompute in backward what `mode` does not keep.

    Args:
        blocks: modules whose `forward` takes and returns tensors.
        mode: "none", "full" (keep only a block's input) or "selective".
    """
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": True}
    if mode == "selective":
        options["context_fn"] = _selective_contexts
    for block in blocks:
        # On the instance: a wrapping module would show in every parameter's name.
        block.forward = _recomputed(block.forward, options)  # type: ignore[method-assign]


def _recomputed(
    inner: Callable[..., Any], options: dict[str, Any]
) -> Callable[..., Any]:
    """A block's forward under checkpointing.

    A plain function, not functools.partial of `checkpoint`, which the compiler skips
    without a word: the block inside would run uncompiled.
    """

    def forward(*arguments: Any) -> Any:
        return checkpoint(inner, *arguments, **options)

    return forward
