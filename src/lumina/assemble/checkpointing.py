"""Activation checkpointing of blocks, without changing a parameter's name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lumina.model.context import BlockContext
from lumina.model.network import Network
from lumina.model.transformer import Through
from lumina.plan.checkpointing import EXCEPT, kind_of, recomputes, segments
from lumina.plan.plan import Plan

_OPTIONS: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": True}

_METHODS = {"attention": "attend", "feedforward": "feed"}
"""Kind -> the method of a block that is the branch it recomputes."""

_PRODUCTS = (
    ("aten", "mm"),
    ("aten", "addmm"),
    ("aten", "bmm"),
    ("aten", "_grouped_mm"),
    ("lumina", "rounded_product"),
    ("lumina", "adapted_product"),
    ("lumina", "low_bit_product"),
)
_ATTENTION = (
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

_REGISTERING = (
    "torch.nn.attention.varlen",
    "lumina.ops.moe.segments",
    "lumina.ops.low_bits.adapted",
)
"""Modules that register some of these operators as they are imported."""

_SAVED = {"selective": _PRODUCTS + _ATTENTION, EXCEPT: _ATTENTION}
"""Kind -> the operators whose outputs it keeps."""


def _saved_operators(names: Sequence[tuple[str, str]]) -> frozenset[Any]:
    """Those of the named operators that this torch has."""
    for module in _REGISTERING:
        importlib.import_module(module)
    found = []
    for namespace, name in names:
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is not None:
            found += [getattr(packet, overload) for overload in packet.overloads()]
    return frozenset(found)


def _selective_contexts(kind: str) -> tuple[Any, Any]:
    saved = _saved_operators(_SAVED[kind])

    def policy(ctx: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if operator in saved:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    contexts: tuple[Any, Any] = create_selective_checkpoint_contexts(policy)
    return contexts


def recompute(network: Network, plan: Plan) -> None:
    """What the features of checkpointing do to a network (`Feature.build`)."""
    backbone = network.backbone
    blocks = len(backbone.blocks)
    checkpoint_each(backbone.blocks, recomputes(plan, blocks))
    size = kind_of(plan).segment(blocks)
    if size > 1:
        backbone.around = (*backbone.around, partial(in_segments, size=size))


def checkpoint_blocks(blocks: nn.ModuleList, kind: str) -> None:
    """Make all blocks recompute alike; arguments as of `checkpoint_each`."""
    checkpoint_each(blocks, (kind,) * len(blocks))


def checkpoint_each(blocks: nn.ModuleList, kinds: Sequence[str]) -> None:
    """Make every block recompute in backward what its kind does not keep.

    Args:
        blocks: modules whose `forward` takes and returns tensors.
        kinds: of each block: "none", "full" (keep only its input), "selective",
            "except_attention", or the branch that it recomputes.
    """
    for block, kind in zip(blocks, kinds, strict=True):
        if kind == "none":
            continue
        options = dict(_OPTIONS)
        if kind in _SAVED:
            options["context_fn"] = partial(_selective_contexts, kind)
        if kind in _METHODS:
            method = _METHODS[kind]
            setattr(block, method, _recomputed(getattr(block, method), options))
            continue
        # On the instance: a wrapping module would show in every parameter's name.
        block.forward = _recomputed(block.forward, options)  # type: ignore[method-assign]


def in_segments(through: Through, size: int) -> Through:
    """Blocks in runs of `size`, whose inputs are kept; all else is computed again.

    The backward pass computes a run again, which keeps the inputs of its blocks, and
    then its blocks one by one (Chen et al., 2016, arXiv:1604.06174, with recomputation
    inside of a run too). The last run is the first to go back, so it keeps the inputs
    of its blocks at once.
    """

    def passed(
        blocks: Sequence[Callable[..., Any]], x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, list[dict[str, Tensor]], dict[str, Tensor]]:
        layers: list[dict[str, Tensor]] = []
        *before, last = segments(len(blocks), size)
        for run in before:
            inner = partial(through, blocks[run.start : run.stop])
            x_bsd, found, _ = checkpoint(inner, x_bsd, context, **_OPTIONS)
            layers += found
        x_bsd, found, own = through(blocks[last.start :], x_bsd, context)
        return x_bsd, layers + found, own

    return passed


def _recomputed(
    inner: Callable[..., Any], options: dict[str, Any]
) -> Callable[..., Any]:
    """A block's forward under checkpointing.

    A plain function, not functools.partial of `checkpoint`, which the compiler skips
    without a word: the block inside would run uncompiled.
    """

    def forward(*arguments: Any) -> Any:
        return to_compute_again(inner, arguments, options)

    return forward


def to_compute_again(
    inner: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """What a block or a branch of it gives, of which backward computes a part again."""
    return checkpoint(inner, *arguments, **options)
