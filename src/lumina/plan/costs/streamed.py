"""The bytes of weights that live beside the device and come to it block by block."""

from __future__ import annotations

import math
from typing import NamedTuple

from lumina.model.declared import in_block
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Declared
from lumina.optim.paging.sizes import ALIGNMENT, BETWEEN
from lumina.plan.costs.cost import Layout
from lumina.plan.costs.few_bits import ROLES


class Streamed(NamedTuple):
    """What lives beside the device.

    Attributes:
        whole: bytes of all blocks' pages.
        weights: the bytes among them that would be on the device otherwise.
        here: bytes of the pages that are on the device at a time.
        largest: bytes of the largest page.
    """

    whole: int
    weights: int
    here: int
    largest: int


def streamed_weights(spec: ModelSpec, layout: Layout) -> Streamed:
    """Pages of the frozen tensors of each block.

    A block's page holds its frozen parameters in the type in which they are kept, and
    in few bits those that a codec holds. While one block computes, `weights_ahead`
    others are on their way; where segments are computed again, so many wait beside them
    to go back.
    """
    frozen = frozen_parameters(spec, layout.freeze)
    pages, weights = [], 0
    for layer in range(spec.num_layers):
        size = 0
        for one in in_block(spec, layer).values():
            if one.kind == "parameter" and one.name in frozen:
                for part in _parts(one, spec, layout):
                    size += -(-part // BETWEEN) * BETWEEN
                    weights += part
        pages.append(-(-size // ALIGNMENT) * ALIGNMENT)
    largest = max(pages)
    segments = layout.gradient_checkpointing == "sqrt"
    here = min(len(pages), (1 + layout.weights_ahead) * (1 + segments))
    return Streamed(sum(pages), weights, here * largest, largest)


def _parts(one: Declared, spec: ModelSpec, layout: Layout) -> list[int]:
    """Bytes of the tensors that hold a frozen parameter."""
    if layout.base_storage and one.role in ROLES:
        # Only here, since codecs need torch.
        from lumina.ops.low_bits.codec import found_codec

        codec = found_codec(layout.base_storage)
        return [
            math.prod(shape) * dtype.itemsize
            for piece, _ in one.logical().values()
            for shape, dtype in codec.parts(piece).values()
        ]
    narrow = layout.keeps_narrow_weights and one.role != "router"
    if layout.weights_dtype == "float32" and not spec.adapters:
        narrow = False  # what is frozen by a pattern is saved as it is
    return [one.size * (2 if narrow else 4)]
