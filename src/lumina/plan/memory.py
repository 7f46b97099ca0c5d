"""An analytic estimate of the memory a step needs, component by component.

It is a prior: built from shapes, not from a run. What it leaves out is named: the CUDA
context, the allocator's fragmentation, and what a compiler fuses away (so that a
compiled model needs less than stated here).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lumina.model.spec import ModelSpec
from lumina.plan.count import block_shapes, count_parameters, is_routed

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

COMPONENTS = (
    "weights",
    "master_weights",
    "gradients",
    "optimizer",
    "ema",
    "activations",
    "routed",
    "logits",
    "communication",
)
"""Every component, in the order of printing; `total` is their sum."""


@dataclass(frozen=True)
class Layout:
    """How a step is laid out, as far as its memory depends on it.

    Attributes:
        trainable: parameters that train; None for all.
    """

    micro_batch_size: int
    compute_dtype: str = "float32"
    grad_accum: int = 1
    gradient_checkpointing: str = "none"
    parallel: str = "none"
    world_size: int = 1
    loss_chunk_bytes: int = 256 * 2**20
    ema: bool = False
    trainable: int | None = None


def estimate(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """Bytes on one device by component, and `total`."""
    parts = {
        **state_bytes(spec, layout),
        **_forward_bytes(spec, layout),
        "logits": _logit_bytes(spec, layout),
        "communication": _communication_bytes(spec, layout),
    }
    ordered = {name: parts[name] for name in COMPONENTS}
    return {**ordered, "total": sum(ordered.values())}


def state_bytes(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """What stays between steps: weights, gradients, moments, averages.

    float32: 4 + 4 + 8 bytes a parameter. 16-bit on one device: weights 2, float32
    master weights 4, gradients 2 (4 when they accumulate), moments 8. 16-bit over
    several: float32 parameters 4, gradients 4, moments 8, and casts of 2 that live
    from forward to backward. fsdp2 divides all but the casts over the ranks.
    """
    counts = count_parameters(spec)
    trainable = counts.total if layout.trainable is None else layout.trainable
    half = BYTES[layout.compute_dtype] == 2
    alone = layout.parallel == "none"
    ranks = layout.world_size if layout.parallel == "fsdp2" else 1
    narrow_gradients = half and alone and layout.grad_accum == 1
    if not half:
        weights, master = 4 * counts.total / ranks, 0.0
    elif alone:
        # What is frozen stays float32, and has no copy.
        weights, master = 4.0 * counts.total - 2 * trainable, 4.0 * trainable
    else:
        weights, master = float(_cast_bytes(spec, layout)), 4 * counts.total / ranks
    return {
        "weights": math.ceil(weights),
        "master_weights": math.ceil(master),
        "gradients": math.ceil((2 if narrow_gradients else 4) * trainable / ranks),
        "optimizer": math.ceil(8 * trainable / ranks),
        "ema": math.ceil(4 * trainable / ranks) if layout.ema else 0,
    }


def _cast_bytes(spec: ModelSpec, layout: Layout) -> int:
    """16-bit casts of float32 matrices that are alive at once.

    Under DDP autograd keeps every cast for the backward pass, except where blocks are
    recomputed. Under FSDP2 the gathered weights are counted as communication.
    """
    if layout.parallel == "fsdp2":
        return 0
    blocks = [_block_parameters(spec, i) for i in range(spec.num_layers)]
    cast = max(blocks) if layout.gradient_checkpointing == "full" else sum(blocks)
    return 2 * (cast + spec.padded_vocab_size * spec.hidden_size)


def _block_parameters(spec: ModelSpec, layer: int) -> int:
    shapes = block_shapes(spec, is_routed(spec, layer))
    return sum(math.prod(shape) for shape in shapes.values())


def _communication_bytes(spec: ModelSpec, layout: Layout) -> int:
    """Gathered weights and gradients on their way (fsdp2): two blocks and the root."""
    if layout.parallel != "fsdp2":
        return 0
    largest = max(_block_parameters(spec, i) for i in range(spec.num_layers))
    tables = 1 if spec.tie_embeddings else 2
    root = tables * spec.padded_vocab_size * spec.hidden_size
    gathered = BYTES[layout.compute_dtype] * (2 * largest + root)
    return gathered + 4 * max(largest, root)


def _forward_bytes(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """Activations kept for the backward pass, and one block's working set."""
    tokens = layout.micro_batch_size * spec.seq_length
    element = BYTES[layout.compute_dtype]
    mode = layout.gradient_checkpointing
    kept = routed = 0.0
    largest = largest_routed = 0.0
    for layer in range(spec.num_layers):
        whole, whole_routed = _block_values(spec, tokens, layer, "none")
        part, part_routed = _block_values(spec, tokens, layer, mode)
        kept += part
        routed += part_routed
        largest = max(largest, whole)
        largest_routed = max(largest_routed, whole_routed)
    # The backward pass of a block holds gradients of about its own activations; a
    # recomputed block is whole again while that happens.
    working, working_routed = largest / 2, largest_routed / 2
    if mode != "none":
        working, working_routed = working + largest, working_routed + largest_routed
    outside = 3.0 * tokens * spec.hidden_size  # embedding out, final norm in and out
    return {
        "activations": math.ceil(element * (kept + working + outside)),
        "routed": math.ceil(element * (routed + working_routed)),
    }


def _block_values(
    spec: ModelSpec, tokens: int, layer: int, mode: str
) -> tuple[float, float]:
    """(values one block keeps for its backward pass, those of routed buffers)."""
    width = spec.hidden_size
    if mode == "full":
        return float(tokens * width), 0.0
    query = spec.num_heads * spec.head_dim
    key = spec.num_kv_heads * spec.head_dim
    products = query + 2 * key + width  # fused projections, output projection
    moe = spec.moe if is_routed(spec, layer) else None
    if mode == "selective":
        # Matrix products and attention are kept, all elementwise work is redone.
        dense = tokens * (width + products + query)
        if moe is None:
            return float(dense + tokens * (2 * spec.intermediate_size + width)), 0.0
        rows = _routed_rows(spec, tokens)
        return float(dense), float(rows * (2 * moe.intermediate_size + width))
    # Two norms' inputs and outputs; projections; rotated queries and keys (and their
    # normalised form); attention's output and its softmax statistics (float32).
    normalised = query + key if spec.qk_norm != "none" else 0
    dense = tokens * (4 * width + products + 2 * query + key + normalised)
    dense += tokens * 2 * spec.num_heads
    if spec.dropout > 0:
        dense += tokens * width  # two masks of one byte
    if moe is None:
        return float(dense + 4 * tokens * spec.intermediate_size), 0.0
    rows = _routed_rows(spec, tokens)
    router = 3 * tokens * moe.num_experts
    return float(dense), float(rows * (4 * moe.intermediate_size + 2 * width) + router)


def _routed_rows(spec: ModelSpec, tokens: int) -> int:
    """Rows the experts of a layer work on."""
    if spec.moe is None:
        return 0
    assigned = tokens * spec.moe.top_k
    if spec.moe.dispatch == "dropless":
        return assigned
    share = math.ceil(spec.moe.capacity_factor * assigned / spec.moe.num_experts)
    return spec.moe.num_experts * share


def _logit_bytes(spec: ModelSpec, layout: Layout) -> int:
    """What the chunked loss holds: its gradients are made while the logits are there.

    A chunk of float32 logits (and its gradient in a 16-bit compute type), the gradient
    of the hidden states, and the head's gradient summed over chunks in float32 with
    the chunk that is being added.
    """
    tokens = layout.micro_batch_size * spec.seq_length
    element = BYTES[layout.compute_dtype]
    row = spec.padded_vocab_size * 4
    chunk = min(max(layout.loss_chunk_bytes, row), tokens * row)
    narrow = chunk // 2 if element == 2 else 0
    head = spec.padded_vocab_size * spec.hidden_size * 4
    return chunk + narrow + tokens * spec.hidden_size * element + 2 * head
