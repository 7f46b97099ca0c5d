"""The bytes of weights that live beside the device and come to it block by block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lumina.model.declared import in_block
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Declared
from lumina.optim.paging.sizes import ALIGNMENT, BETWEEN, PAGE_BYTES
from lumina.plan.costs.few_bits import ROLES

if TYPE_CHECKING:
    from lumina.plan.costs.layout import Layout

UNDER_WAY = 2
"""Blocks whose gradients are on the device: they are made in one, and those of another
leave."""


class Streamed(NamedTuple):
    """What lives beside the device.

    Attributes:
        whole: bytes of all blocks' pages.
        weights: the bytes among them that would be on the device otherwise.
        here: bytes of the pages that are on the device at a time.
        largest: bytes of the largest page.
        gradients: bytes of the gradients that leave; 0 where only frozen weights are
            streamed, or weights change in the backward pass.
        gradients_here: bytes of those that are on the device at a time.
        step: bytes of weights and gradients that a step brings with a page of states.
        staging: pinned bytes that a gradient passes which is added to others.
        brought: bytes of pages that all forwards and backwards of a step bring.
        leaves: bytes of gradients that leave in all of them.
        trained: bytes of the weights that a step takes home.
    """

    whole: int
    weights: int
    here: int
    largest: int
    gradients: int
    gradients_here: int
    step: int
    staging: int
    brought: int
    leaves: int
    trained: int


def streamed_weights(spec: ModelSpec, layout: Layout) -> Streamed:
    """Pages of the weights of each block: of frozen ones, or of all where all train.

    A block's page holds parameters in the type in which they are kept, and in few bits
    those that a codec holds. While one block computes, `weights_ahead` others are on
    their way; where segments are computed again, this many wait beside them to go back.
    """
    everything = not spec.adapters and not layout.freeze
    frozen = frozen_parameters(spec, layout.freeze)
    pages, numbers, weights, most = [], [], 0, 0
    for layer in range(spec.num_layers):
        size = count = 0
        for one in in_block(spec, layer).values():
            trains = everything and one.role != "router"
            if one.kind == "parameter" and (trains or one.name in frozen):
                for part in _parts(one, spec, layout, trains):
                    size += -(-part // BETWEEN) * BETWEEN
                    weights += part
                count += one.size * trains
                most = max(most, one.size * trains)
        pages.append(-(-size // ALIGNMENT) * ALIGNMENT)
        numbers.append(count)
    largest = max(pages)
    segments = layout.gradient_checkpointing == "sqrt"
    here = min(len(pages), (1 + layout.weights_ahead) * (1 + segments)) * largest
    early = layout.updates_early
    narrow = layout.compute_dtype != "float32"
    element = 2 if narrow and not layout.accumulates else 4
    leave = 0 if early else element
    # Chunks but the last of each row go forward once more, for their keys.
    chunks = math.ceil(spec.seq_length / layout.forward_spec(spec).seq_length)
    backwards = layout.grad_accum * chunks
    states = layout.optimizer_states[0] + 4 * layout.masters_beside
    in_page = max(most, int(PAGE_BYTES / states)) if states else most
    in_step = min(in_page, sum(numbers)) * ((2 if narrow else 4) + leave)
    return Streamed(
        whole=sum(pages),
        weights=weights,
        here=here,
        largest=largest,
        gradients=leave * sum(numbers),
        gradients_here=(2 if narrow else 4) * UNDER_WAY * max(numbers) * (not early),
        step=in_step,
        staging=(2 if narrow else 4) * most * layout.accumulates,
        brought=(3 * backwards - layout.grad_accum) * sum(pages),
        leaves=backwards * (2 if narrow else 4) * sum(numbers) * (not early),
        trained=(2 if narrow else 4) * sum(numbers),
    )


def _parts(one: Declared, spec: ModelSpec, layout: Layout, trains: bool) -> list[int]:
    """Bytes of the tensors that hold a parameter."""
    if layout.base_storage and one.role in ROLES and not trains:
        # Only here, since codecs need torch.
        from lumina.ops.low_bits.codec import found_codec

        codec = found_codec(layout.base_storage)
        return [
            math.prod(shape) * dtype.itemsize
            for piece, _ in one.logical().values()
            for shape, dtype in codec.parts(piece).values()
        ]
    narrow = layout.keeps_narrow_weights and one.role != "router"
    if layout.weights_dtype == "float32" and not spec.adapters and not trains:
        narrow = False  # what is frozen by a pattern is saved as it is
    return [one.size * (2 if narrow else 4)]
