"""An analytic estimate of the memory a step needs, component by component.

It is a prior: built from shapes, not from a run. It gives two figures. `expected` is
what a step is likely to take: without accumulation gradients grow while activations
shrink, so they are not there together, pages of states come when both are gone, and a
compiler fuses away some of what would be kept. `bound` decides whether a run is
admitted: no step measured took more. On a GPU it is what can be there together, and a
margin; on the CPU, whose heap is known less well, the sum of all components. Both leave
out the CUDA context and the allocator's fragmentation.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

from lumina.features import find_feature
from lumina.model.declared import declared
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec
from lumina.parallel.table import chosen_way
from lumina.parallel.way import Exchanged
from lumina.plan.activations import kept_by_block, kept_outside, working_bytes
from lumina.plan.checkpointing import kind_of, recomputes, segments
from lumina.plan.costs.adapters import where_adapters_stand
from lumina.plan.costs.cost import Cost
from lumina.plan.costs.forward import BYTES, Forward, Kept
from lumina.plan.costs.kept_bits import AT_A_TIME, CODING, bytes_of_a_number
from lumina.plan.costs.layout import Layout
from lumina.plan.costs.state import block_size, state_bytes
from lumina.plan.costs.table import costs_of

COMPONENTS = (
    "weights",
    "master_weights",
    "gradients",
    "optimizer",
    "ema",
    "base_weights",
    "activations",
    "routed",
    "logits",
    "working",
    "communication",
    "overhead",
)
"""Every component, in the order of printing; their sum is the bound or more."""

STAYS = (
    "weights", "master_weights", "optimizer", "ema", "base_weights", "communication",
)  # fmt: skip
"""Components that are there during the whole step."""

PAGED = frozenset({"optimizer_states_host", "optimizer_states_disk"})
EARLY = "optimizer_in_backward"
"""Features that decide when the optimizer's states are on the device."""

CUBLAS_WORKSPACE, CUBLAS_WORKSPACES = 32 * 2**20, 2
"""What cuBLAS works in, and how often: PyTorch gives each of its handles, of which a
thread that multiplies has one, a workspace of 32 MiB from compute capability 9.0 on and
8.1 MiB before; the forward pass and autograd's thread are two. Of forty configurations
measured on one H200, 33 held 58 to 95 MiB more than what is expected without them (70
at the median), six were planned too high and one of 6 GiB too low by 1.5%
(`benchmarks/results/planned_memory-device-seed77-h200.jsonl`)."""

SMALL_TENSORS = 32 * 2**20
"""What the bound adds for tensors that nobody counts: token numbers, labels, positions,
tables of rotations, statistics of norms, metrics, and what the allocator rounds up. Of
the same forty, the one nearest to its bound needs 10 MiB of it."""

HOST_PROCESS, HOST_SHARE = 520 * 2**20, 0.5
"""On the CPU: what Python, PyTorch and the loader hold beside the tensors, and what the
C library's heap and the products' packed operands add to each byte of them. Fitted to
the largest resident sizes of three float32 runs of 1.5 M to 30 M parameters (773, 1,548
and 2,897 MiB)."""

MARGIN, MARGIN_CPU = 0.02, 0.1
"""Part of everything else that the bound adds to it."""

COMPILED_SHARE = 0.86
"""Part of the activations that a compiled model keeps where nothing is recomputed:
0.79 to 0.87 in five models (`benchmarks/memory.py`)."""


def estimate(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """Bytes on one device: by component, `bound` (their sum) and `expected`."""
    parts = _components(spec, layout)
    gone = parts.pop(GONE, 0)
    before = parts.get("working", 0)
    step = _add_features(parts, spec, layout)
    # What features work with beside blocks finds the room of the logits empty, too.
    working = parts.get("working", 0)
    parts["working"] = max(min(before, working), working - gone)
    ordered = {name: parts.get(name, 0) for name in COMPONENTS}
    counted = sum(ordered.values())
    if layout.device == "cuda" and not _own_components(spec):
        counted = _together(ordered, layout, step, hidden=working - parts["working"])
    ordered["overhead"] = _overhead(layout, counted)
    return {
        **ordered,
        "bound": counted + ordered["overhead"],
        "expected": _expected(ordered, layout, step),
    }


def _own_components(spec: ModelSpec) -> bool:
    """Whether a kind of model counts its steps in a way of its own.

    Of those it was not measured what is there together.
    """
    return any(type(cost).components is not Cost.components for cost in costs_of(spec))


GONE = "gone"
"""Of `_components`: bytes of the logits whose room blocks that go back leave unused."""


def _add_features(
    parts: dict[str, int], spec: ModelSpec, layout: Layout
) -> dict[str, int]:
    """Add what each feature takes, or takes away, to its component.

    Returns:
        What of it is not there in the optimizer's step, by component.
    """
    leaves: dict[str, int] = {}
    for name in layout.features:
        feature = find_feature(name)
        effect = feature.memory
        for component, extra in effect(spec, layout).items() if effect else ():
            parts[component] = max(0, parts.get(component, 0) + extra)
        effect = feature.leaves
        for component, size in effect(spec, layout).items() if effect else ():
            leaves[component] = leaves.get(component, 0) + size
    return leaves


def _components(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """All components but the overhead, in any order."""
    for cost in costs_of(spec):
        found = cost.components(spec, layout, _components)
        if found is not None:
            return found
    return {
        **state_bytes(spec, layout),
        **_activation_bytes(spec, layout),
        "communication": _communication_bytes(spec, layout),
    }


def _overhead(layout: Layout, counted: int) -> int:
    """What the bound adds to the bytes counted."""
    beside = _beside(layout, counted)
    if layout.device == "cuda":
        more = CUBLAS_WORKSPACE * layout.compile
        return beside + more + SMALL_TENSORS + math.ceil(MARGIN * counted)
    return beside + math.ceil(MARGIN_CPU * (counted + beside))


def _beside(layout: Layout, counted: int) -> int:
    """What is held beside the tensors counted."""
    if layout.device == "cuda":
        return CUBLAS_WORKSPACES * CUBLAS_WORKSPACE
    return HOST_PROCESS + math.ceil(HOST_SHARE * counted)


def _together(
    parts: Mapping[str, int],
    layout: Layout,
    leaves: Mapping[str, int],
    *,
    hidden: int = 0,
    share: float = 1.0,
) -> int:
    """The most that is there at a time, of all components but the overhead.

    Args:
        parts: by component.
        layout: of the step.
        leaves: what of them is not there in the optimizer's step.
        hidden: bytes that blocks work with on their way back and that the logits, which
            are gone by then, hide.
        share: of what is kept for the backward pass.
    """
    kept = math.ceil(share * (parts["activations"] + parts["routed"]))
    passing = kept + parts["logits"] + parts["working"]
    gradients = parts["gradients"]
    stays = sum(parts[name] for name in STAYS)
    if layout.accumulates:
        most = passing + gradients
    else:
        # At the end of the backward pass all gradients are there, and one block works.
        most = max(passing, gradients + parts["working"] + hidden)
    if PAGED & set(layout.features) and EARLY not in layout.features:
        # Pages come when the backward pass is over, and only gradients are there.
        pages = parts["optimizer"]
        stays -= pages
        most = max(most, gradients + pages - sum(leaves.values()))
    return stays + most


def _expected(
    parts: Mapping[str, int], layout: Layout, leaves: Mapping[str, int]
) -> int:
    """What a step is likely to take at its peak."""
    fused = layout.compile and layout.gradient_checkpointing == "none"
    share = COMPILED_SHARE if fused else 1.0
    most = _together(parts, layout, leaves, share=share)
    return most + _beside(layout, most)


def _communication_bytes(spec: ModelSpec, layout: Layout) -> int:
    """Weights and gradients that are being exchanged, as the way of sharing says."""
    sizes = [block_size(spec, i) for i in range(spec.num_layers)]
    heads = max((cost.heads(spec) for cost in costs_of(spec)), default=1)
    tables = 1 if spec.tie_embeddings else 1 + heads
    root = tables * spec.padded_vocab_size * spec.hidden_size
    return chosen_way(layout.parallel).communication_bytes(
        Exchanged(
            block=max(sizes),
            blocks=sum(sizes),
            root=root,
            trained=layout.trained(spec),
            element=BYTES[layout.compute_dtype],
            messages=layout.messages,
            persistent=layout.small(spec),
        )
    )


def _activation_bytes(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """What is kept for the backward pass, and what one block needs on its way back."""
    spec = layout.forward_spec(spec)
    forward = Forward(
        rows=layout.micro_batch_size,
        compute_dtype=layout.compute_dtype,
        attention=layout.attention,
        cuda=layout.device == "cuda",
        tile=layout.feedforward_tile,
        groups=layout.attention_head_groups,
    )
    kept = Kept(kept_outside(spec, forward))
    of_blocks, recomputed = _kept_by_blocks(spec, layout, forward)
    kept += of_blocks
    mode = recomputes(layout, 1)[0]
    for cost in costs_of(spec):
        kept += cost.kept_beside(spec, forward, mode, kept_by_block)
    working = working_bytes(spec, forward) + recomputed + _coding_bytes(spec, layout)
    logits, transient = _logit_bytes(spec, layout)
    if forward.tiled(spec) and mode == "full":
        transient += _gone_before_blocks(spec, layout)
    return {
        "activations": kept.dense,
        "routed": kept.routed,
        "logits": logits,
        # The logits are gone when the blocks go back; their room is used again.
        "working": max(0, working - transient),
        GONE: max(0, transient - working),
    }


def _gone_before_blocks(spec: ModelSpec, layout: Layout) -> int:
    """Bytes beside the logits that are gone when the first block goes back.

    The last hidden states; their gradient, which `working` counts as that of the
    block's output; and an input of a block that was still on its way to the host.
    """
    count, size = layout.inputs_away(spec)
    on_its_way = layout.activations_in != "device" and count > 1
    return 2 * layout.hidden_states(spec) + size * on_its_way


def _kept_by_blocks(
    spec: ModelSpec, layout: Layout, forward: Forward
) -> tuple[Kept, int]:
    """(what all blocks keep, what is there again while one of them goes back)."""
    costs = costs_of(spec)
    kinds = recomputes(layout, spec.num_layers)
    # Many blocks are alike: one of each group stands for all of it.
    groups: dict[Hashable, list[int]] = {}
    for layer, kind in enumerate(kinds):
        alike = (kind, *(cost.alike(spec, layer) for cost in costs))
        groups.setdefault(alike, []).append(layer)
    parts = segments(spec.num_layers, kind_of(layout).segment(spec.num_layers))
    # Of segments the inputs are kept, and the inputs of the blocks of one of them.
    share = (len(parts) - 1 + len(parts[0])) / spec.num_layers if len(parts) else 1.0
    kept, recomputed, after = Kept(), 0, 0
    for layers in sorted(groups.values(), key=lambda group: -group[-1]):
        kind = kinds[layers[0]]
        whole = kept_by_block(spec, forward, layers[0], "none")
        one = _in_bits(
            spec, layout, kept_by_block(spec, forward, layers[0], kind), kind
        )
        count = len(layers) if len(parts[0]) == 1 else math.ceil(len(layers) * share)
        kept += Kept(one.dense * count, one.routed * count)
        # What later blocks kept whole is gone when an earlier one computes again.
        if kind != "none":
            recomputed = max(recomputed, whole.total - one.total - after)
        else:
            after += count * one.total
    return kept, recomputed


def _in_bits(spec: ModelSpec, layout: Layout, kept: Kept, kind: str) -> Kept:
    """What a block keeps, where activations are kept in few bits."""
    bits, element = layout.activation_bits, BYTES[layout.compute_dtype]
    if not bits:
        return kept
    share = bytes_of_a_number(bits) / element
    if kind != "none":
        whole = layout.hidden_states(spec)
        return Kept(kept.dense - whole + math.ceil(whole * share), kept.routed)
    exact = sum(cost.exact(spec, layout) for cost in costs_of(spec))
    exact += layout.micro_batch_size * spec.seq_length * (4 * spec.num_heads + 8)
    if spec.dropout > 0:
        mask = 1 if layout.device == "cuda" else element
        exact += 2 * layout.hidden_states(spec) // element * mask
    exact = min(exact, kept.dense)
    dense = exact + math.ceil((kept.dense - exact) * share)
    return Kept(dense, math.ceil(kept.routed * share))


def _coding_bytes(spec: ModelSpec, layout: Layout) -> int:
    """What coding and decoding of one tensor takes beside it."""
    if not layout.activation_bits:
        return 0
    tokens = layout.micro_batch_size * spec.seq_length
    widest = tokens * max(2 * spec.intermediate_size, 2 * spec.hidden_size)
    return CODING * min(AT_A_TIME, widest) + 2 * widest * BYTES[layout.compute_dtype]


def _logit_bytes(spec: ModelSpec, layout: Layout) -> tuple[int, int]:
    """(what the chunked loss holds at most, the part that is gone afterwards).

    Its gradients are made while the logits are there: a chunk of float32 logits (and
    its gradient: in the compute type on CUDA, on the CPU only where that is narrower),
    the gradient of the hidden states, and the head's gradient, summed over chunks in
    float32, where the head trains. Half precision on CUDA adds to that sum in place,
    all else adds a product of that size. A chunk's are gone when the next one's are
    made; the hidden states themselves, and what is not a sum, are gone afterwards.
    """
    tokens = layout.micro_batch_size * spec.seq_length
    element = BYTES[layout.compute_dtype]
    row = spec.padded_vocab_size * 4
    number = math.ceil(tokens / max(1, layout.loss_chunk_bytes // row))
    logits = math.ceil(tokens / number) * row
    gradient = logits * element // 4
    beside = element == 2 or layout.device == "cuda"
    chunk = logits + gradient * beside
    costs = costs_of(spec)
    heads = max((cost.heads(spec) for cost in costs), default=1)
    copies = max((cost.hidden_copies(spec) for cost in costs), default=1)
    head = spec.padded_vocab_size * spec.hidden_size * 4 * (not _frozen_head(spec))
    added = 0 if element == 2 and layout.device == "cuda" else head
    hidden = tokens * spec.hidden_size * element * copies
    # A chunk's logits are gone when its part of the head's gradient is added.
    transient = max(chunk, gradient + added) + hidden
    return transient + hidden + head * heads, transient


def _frozen_head(spec: ModelSpec) -> bool:
    """Whether the heads have no gradient, because only adapters on others train."""
    if not spec.adapters:
        return False
    tensors = declared(spec)
    if any(site.head for _, site in where_adapters_stand(spec)):
        return False
    role = "embedding" if spec.tie_embeddings else "head"
    heads = {name for name, one in tensors.items() if one.role == role}
    return heads <= frozen_parameters(spec, ())
