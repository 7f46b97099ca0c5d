"""What stays between steps: weights, gradients, optimizer states."""

from __future__ import annotations

import math

from lumina.model.declared import declared
from lumina.model.spec import ModelSpec
from lumina.parallel.table import chosen_way
from lumina.plan.checkpointing import recomputes
from lumina.plan.costs.forward import BYTES
from lumina.plan.costs.layout import Layout
from lumina.plan.count import (
    block_parameters,
    count_parameters,
    count_small,
    count_sparse,
)


def state_bytes(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """What stays between steps: weights, gradients, optimizer states.

    The frozen base of adapters is in 16 bits where the model computes in them.
    Bytes for each parameter, beside those of the optimizer. float32: weights 4,
    gradients 4. 16-bit on one device: weights 2, float32 master weights 4, gradients 2
    (4 when they accumulate). 16-bit over several: float32 parameters 4, gradients 4,
    and casts of 2 that live from forward to backward. Weights that are kept in 16 bits:
    weights 2, gradients 2 (4 when they accumulate), and the largest one once in
    float32, while it is changed. Where weights are sharded, all
    but the casts is divided over the ranks, and of the optimizers' states those that
    share the rows of the weights; where only states are divided, so are the masters of
    16-bit weights. Vectors of puzzles are float32, whole on
    every rank, and there is nothing beside them.
    """
    vectors = count_sparse(spec)
    total = count_parameters(spec).total - vectors
    trainable = total if layout.trainable is None else layout.trainable
    half = BYTES[layout.compute_dtype] == 2
    way = chosen_way(layout.parallel)
    ranks = layout.data_ranks if way.sharded else 1
    held = layout.weights_dtype != "float32"
    routers = _router_parameters(spec) if trainable == total else 0
    if held:
        weights = 2.0 * (total + _router_parameters(spec))
        master = 4.0 * spec.padded_vocab_size * spec.hidden_size
    elif not half:
        weights, master = 4 * _here(spec, layout, total, ranks), 0.0
    elif way.masters_apart:
        # What is frozen stays float32, and so do routers: neither has a copy.
        copied = trainable - routers
        narrow = total - _router_parameters(spec) if spec.adapters else copied
        weights, master = 4.0 * total - 2 * narrow, 4.0 * copied / layout.parts
    else:
        weights = float(_cast_bytes(spec, layout))
        master = 4 * _here(spec, layout, total, ranks)
    return {
        "weights": math.ceil(weights) + 4 * (vectors + _kept_by_adapters(spec)),
        "master_weights": math.ceil(master),
        "gradients": layout.gradients_here(spec),
        "optimizer": layout.states_here(spec),
    }


def _here(spec: ModelSpec, layout: Layout, total: int, ranks: int) -> float:
    """Parameters of which a device holds float32 values, where weights are sharded.

    Small ones may stay whole.
    """
    small = count_small(spec, None, layout.whole_below)
    return small + (total - small) / ranks


def _kept_by_adapters(spec: ModelSpec) -> int:
    """Numbers in the buffers of adapters, which are float32 on every rank."""
    return sum(
        one.size
        for one in (declared(spec).values() if spec.adapters else ())
        if one.role == "buffer" and ".adapters." in one.name
    )


def _router_parameters(spec: ModelSpec) -> int:
    """Parameters of all routers, which stay float32."""
    return count_parameters(spec).router


def _cast_bytes(spec: ModelSpec, layout: Layout) -> int:
    """16-bit casts of float32 matrices that are alive at once.

    Under DDP autograd keeps every cast for the backward pass, except where blocks are
    recomputed. Under FSDP2 the gathered weights are counted as communication, and only
    small ones that stay whole are cast as under DDP.
    """
    below = layout.whole_below if chosen_way(layout.parallel).sharded else math.inf
    if not below:
        return 0
    blocks = [block_size(spec, i, below) for i in range(spec.num_layers)]
    kinds = recomputes(layout, len(blocks))
    again = [size for size, kind in zip(blocks, kinds, strict=True) if kind == "full"]
    cast = sum(blocks) - sum(again) + max(again, default=0)
    head = spec.padded_vocab_size * spec.hidden_size
    return 2 * (cast + (head if head < below else 0))


def block_size(spec: ModelSpec, layer: int, below: float = math.inf) -> int:
    """Parameters of one block, without those that decide which tokens it takes.

    Args:
        spec: the shape.
        layer: of the block.
        below: tensors of at least so many elements are not counted.
    """
    sizes = [one.size for one in block_parameters(spec, layer).values()]
    return sum(size for size in sizes if size < below)
