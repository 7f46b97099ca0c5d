"""An analytic estimate of the memory a step needs, component by component.

It is a prior: built from shapes, not from a run. It gives two figures. `bound` is the
sum of all components and decides whether a run is admitted: no step measured took more.
`expected` is what a step is likely to take: without accumulation gradients grow while
activations shrink, so they are not there together, and a compiler fuses away some of
what would be kept. Both leave out the CUDA context and the allocator's fragmentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lumina.model.spec import HrmSpec, ModelSpec
from lumina.parallel.table import chosen_way
from lumina.plan.activations import (
    BYTES,
    Forward,
    Kept,
    further_passes,
    kept_by_block,
    kept_outside,
    working_bytes,
)
from lumina.plan.count import (
    block_shapes,
    count_parameters,
    count_vectors,
    is_routed,
    parameter_shapes,
)
from lumina.plan.flops import reasoning_blocks
from lumina.plan.parts import parts_of

COMPONENTS = (
    "weights",
    "master_weights",
    "gradients",
    "optimizer",
    "ema",
    "activations",
    "routed",
    "logits",
    "working",
    "communication",
    "overhead",
)
"""Every component, in the order of printing; `bound` is their sum."""

CUDA_WORKSPACES = 64 * 2**20
"""What cuBLAS and the smallest buffers hold beside the tensors counted here; measured
with models so small that little else is there (`benchmarks/memory.py`)."""

HOST_PROCESS, HOST_SHARE = 520 * 2**20, 0.5
"""On the CPU: what Python, PyTorch and the loader hold beside the tensors, and what the
C library's heap and the products' packed operands add to each byte of them. Fitted to
the largest resident sizes of three float32 runs of 1.5 M to 30 M parameters (773, 1,548
and 2,897 MiB)."""

MARGIN = 0.01
"""Part of everything else that the bound adds to it; ten times as much on the CPU."""

COMPILED_SHARE = 0.86
"""Part of the activations that a compiled model keeps where nothing is recomputed:
0.79 to 0.87 in five models (`benchmarks/memory.py`)."""


@dataclass(frozen=True)
class Layout:
    """How a step is laid out, as far as its memory depends on it.

    Attributes:
        parallel: how the ranks share the work, as of `lumina.parallel.table`.
        data_ranks: ranks among which rows, and sharded weights, are divided.
        trainable: parameters that train; None for all.
        compile: whether the blocks are compiled; changes what is expected only.
    """

    micro_batch_size: int
    compute_dtype: str = "float32"
    grad_accum: int = 1
    gradient_checkpointing: str = "none"
    parallel: str = "none"
    data_ranks: int = 1
    loss_chunk_bytes: int = 256 * 2**20
    ema: bool = False
    trainable: int | None = None
    attention: str = "varlen"
    device: str = "cuda"
    compile: bool = False


def estimate(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """Bytes on one device: by component, `bound` (their sum) and `expected`."""
    parts = _components(spec, layout)
    parts["overhead"] = _overhead(layout, sum(parts.values()))
    ordered = {name: parts[name] for name in COMPONENTS}
    return {
        **ordered,
        "bound": sum(ordered.values()),
        "expected": _expected(ordered, layout),
    }


def _components(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """All components but the overhead, in any order."""
    if spec.solves_puzzles and spec.hrm is not None:
        return _recurrent(spec, spec.hrm, layout)
    if spec.hrm is not None:
        return _halting(spec, spec.hrm, layout)
    return {
        **state_bytes(spec, layout),
        **_activation_bytes(spec, layout),
        "communication": _communication_bytes(spec, layout),
    }


def _overhead(layout: Layout, counted: int) -> int:
    """What the bound adds to the bytes counted."""
    beside = _beside(layout, counted)
    if layout.device == "cuda":
        return 2 * beside + math.ceil(MARGIN * counted)
    return beside + math.ceil(10 * MARGIN * (counted + beside))


def _beside(layout: Layout, counted: int) -> int:
    """What is held beside the tensors counted."""
    if layout.device == "cuda":
        return CUDA_WORKSPACES
    return HOST_PROCESS + math.ceil(HOST_SHARE * counted)


def _expected(parts: Mapping[str, int], layout: Layout) -> int:
    """What a step is likely to take at its peak."""
    kept = parts["activations"] + parts["routed"]
    if layout.compile and layout.gradient_checkpointing == "none":
        kept = math.ceil(COMPILED_SHARE * kept)
    passing = kept + parts["logits"] + parts["working"]
    gradients = parts["gradients"]
    together = layout.grad_accum > 1
    states = ("weights", "master_weights", "optimizer", "ema", "communication")
    stays = sum(parts[name] for name in states)
    stays += passing + gradients if together else max(passing, gradients)
    return stays + _beside(layout, stays)


def _recurrent(spec: ModelSpec, hrm: HrmSpec, layout: Layout) -> dict[str, int]:
    """A reasoner: the blocks whose updates carry gradient, and the carry.

    They are counted as blocks of a transformer, whose norms keep a little more. The
    carry is there twice, before and after the step, for every forward of the step.
    """
    one = hrm.variant == "trm"
    kept = hrm.l_layers * (hrm.l_cycles + 1) if one else spec.num_layers
    length = spec.seq_length + 1
    unrolled = replace(spec, hrm=None, num_layers=kept, seq_length=length)
    parts = _components(unrolled, layout) | state_bytes(spec, layout)
    rows = layout.micro_batch_size * layout.grad_accum
    state = rows * length * spec.hidden_size * BYTES[layout.compute_dtype]
    labels = 2 * 8 * rows * length
    parts["activations"] += 2 * (2 * state + labels)
    # Cross entropy in float64: the scores, their logarithms and their gradients.
    parts["logits"] += 8 * 8 * layout.micro_batch_size * length * spec.vocab_size
    return parts


def _halting(spec: ModelSpec, hrm: HrmSpec, layout: Layout) -> dict[str, int]:
    """A causal reasoner: the blocks of every segment whose updates carry gradient.

    Beside them the keys and values of every application of a block, the state after
    every segment (and a float32 copy for the halting head), and as many hidden states
    for the head as there are segments.
    """
    applications, learned = reasoning_blocks(spec, hrm)
    segments = hrm.halt_max_steps
    unrolled = replace(spec, hrm=None, num_layers=learned * segments)
    parts = _components(unrolled, layout) | state_bytes(spec, layout)
    tokens = layout.micro_batch_size * spec.seq_length
    element = BYTES[layout.compute_dtype]
    # Those of the segment before live until each has been made anew.
    keys = 2 * (applications + 1) * spec.num_kv_heads * spec.head_dim
    state = spec.hidden_size * (2 * element + (4 if element == 2 else 0))
    parts["activations"] += tokens * (keys * element + segments * (state + 32))
    hidden = 2 * segments * spec.hidden_size * element
    parts["logits"] += tokens * hidden
    return parts


def state_bytes(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """What stays between steps: weights, gradients, moments, averages.

    float32: 4 + 4 + 8 bytes a parameter. 16-bit on one device: weights 2, float32
    master weights 4, gradients 2 (4 when they accumulate), moments 8. 16-bit over
    several: float32 parameters 4, gradients 4, moments 8, and casts of 2 that live
    from forward to backward. Where weights are sharded, all but the casts is divided
    over the ranks. Vectors of
    puzzles are float32, whole on every rank, and there is nothing beside them.
    """
    vectors = count_vectors(spec)
    total = count_parameters(spec).total - vectors
    trainable = total if layout.trainable is None else layout.trainable
    half = BYTES[layout.compute_dtype] == 2
    way = chosen_way(layout.parallel)
    ranks = layout.data_ranks if way.sharded else 1
    narrow_gradients = half and way.masters_apart and layout.grad_accum == 1
    routers = _router_parameters(spec) if trainable == total else 0
    if not half:
        weights, master = 4 * total / ranks, 0.0
    elif way.masters_apart:
        # What is frozen stays float32, and so do routers: neither has a copy.
        copied = trainable - routers
        weights, master = 4.0 * total - 2 * copied, 4.0 * copied
    else:
        weights, master = float(_cast_bytes(spec, layout)), 4 * total / ranks
    return {
        "weights": math.ceil(weights) + 4 * vectors,
        "master_weights": math.ceil(master),
        "gradients": math.ceil(
            (2 * (trainable + routers) if narrow_gradients else 4 * trainable) / ranks
        ),
        "optimizer": math.ceil(8 * trainable / ranks),
        "ema": math.ceil(4 * trainable / ranks) if layout.ema else 0,
    }


def _heads(spec: ModelSpec) -> int:
    """Linear heads: one, or one for each task."""
    return 1 if spec.tasks is None else len(spec.tasks.names)


def _router_parameters(spec: ModelSpec) -> int:
    """Parameters of all routers, which stay float32."""
    return count_parameters(spec).router


def _cast_bytes(spec: ModelSpec, layout: Layout) -> int:
    """16-bit casts of float32 matrices that are alive at once.

    Under DDP autograd keeps every cast for the backward pass, except where blocks are
    recomputed. Under FSDP2 the gathered weights are counted as communication.
    """
    if chosen_way(layout.parallel).sharded:
        return 0
    blocks = [_block_parameters(spec, i) for i in range(spec.num_layers)]
    cast = max(blocks) if layout.gradient_checkpointing == "full" else sum(blocks)
    return 2 * (cast + spec.padded_vocab_size * spec.hidden_size)


def _block_parameters(spec: ModelSpec, layer: int) -> int:
    if spec.parts is not None:
        own = f"backbone.blocks.{layer}."
        built = parameter_shapes(spec).items()
        return sum(math.prod(shape) for name, shape in built if name.startswith(own))
    shapes = block_shapes(spec, is_routed(spec, layer))
    return sum(math.prod(shape) for shape in shapes.values())


def _communication_bytes(spec: ModelSpec, layout: Layout) -> int:
    """Weights and gradients that are being exchanged, as the way of sharing says."""
    largest = max(_block_parameters(spec, i) for i in range(spec.num_layers))
    tables = 1 if spec.tie_embeddings else 1 + _heads(spec)
    root = tables * spec.padded_vocab_size * spec.hidden_size
    return chosen_way(layout.parallel).communication_bytes(
        largest, root, BYTES[layout.compute_dtype]
    )


def _activation_bytes(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """What is kept for the backward pass, and what one block needs on its way back."""
    forward = Forward(
        rows=layout.micro_batch_size,
        compute_dtype=layout.compute_dtype,
        attention=layout.attention,
        cuda=layout.device == "cuda",
    )
    mode = layout.gradient_checkpointing
    kept = Kept(kept_outside(spec, forward))
    recomputed = 0
    # Blocks of one kind are alike, so one of each is measured.
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for layer in range(spec.num_layers):
        chosen = spec.mod is not None and layer in spec.mod.layers
        parts = tuple(parts_of(spec, layer).items())
        kinds.setdefault((is_routed(spec, layer), chosen, parts), []).append(layer)
    for layers in kinds.values():
        one = kept_by_block(spec, forward, layers[0], mode)
        whole = kept_by_block(spec, forward, layers[0], "none")
        kept += Kept(one.dense * len(layers), one.routed * len(layers))
        recomputed = max(recomputed, whole.total - one.total)
    kept += further_passes(spec, forward, mode)
    working = working_bytes(spec, forward) + recomputed
    logits, transient = _logit_bytes(spec, layout)
    return {
        "activations": kept.dense,
        "routed": kept.routed,
        "logits": logits,
        # The logits are gone when the blocks go back; their room is used again.
        "working": max(0, working - transient),
    }


def _logit_bytes(spec: ModelSpec, layout: Layout) -> tuple[int, int]:
    """(what the chunked loss holds at most, the part that is gone afterwards).

    Its gradients are made while the logits are there: a chunk of float32 logits (and
    its gradient: in the compute type on CUDA, on the CPU only where that is narrower),
    the gradient of the hidden states, and the head's gradient summed over chunks in
    float32 with the chunk that is being added. The hidden states themselves, and what
    is not a sum, are gone afterwards.
    """
    tokens = layout.micro_batch_size * spec.seq_length
    element = BYTES[layout.compute_dtype]
    row = spec.padded_vocab_size * 4
    chunk = min(max(layout.loss_chunk_bytes, row), tokens * row)
    if element == 2:
        chunk += chunk // 2
    elif layout.device == "cuda":
        chunk *= 2  # the kernel writes the gradient beside the logits
    head = spec.padded_vocab_size * spec.hidden_size * 4 * _heads(spec)
    hidden = tokens * spec.hidden_size * element
    if spec.tasks is not None:  # the gradients of the tasks' rows, then put together
        hidden *= 2
    transient = chunk + head + hidden
    return transient + hidden + head, transient
