"""The bytes of a frozen base in few bits."""

from __future__ import annotations

import math
from typing import NamedTuple

from lumina.model.declared import declared
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec

ROLES = ("matrix", "expert")
"""Of the tensors that few bits hold: neither embeddings, heads, routers nor norms."""


class StoredBase(NamedTuple):
    """The frozen matrices of the base of adapters.

    Attributes:
        few: bytes that a codec holds them in.
        numbers: how many numbers they are.
        largest: numbers of the largest one, all experts of a layer together.
        rounded_at_once: sums of 32 bits that a product of integers holds at most; 0
            where inputs are not rounded.
    """

    few: int
    numbers: int
    largest: int
    rounded_at_once: int = 0

    def of_integers(self, rows: int, forward: ModelSpec) -> int:
        """Bytes beside a product of integers: codes, and sums before and after scales.

        Args:
            rows: of a forward.
            forward: its shape.
        """
        outputs = rows * forward.seq_length * self.largest // forward.hidden_size
        return 16 * min(self.rounded_at_once, outputs)


def stored_base(spec: ModelSpec, codec_name: str) -> StoredBase:
    """What a codec makes of the frozen matrices of a model with adapters."""
    # Only here, since codecs need torch.
    from lumina.ops.low_bits.codec import found_codec
    from lumina.ops.low_bits.codecs.llm_int8 import AT_ONCE

    codec, frozen = found_codec(codec_name), frozen_parameters(spec, ())
    chosen = [
        one
        for name, one in declared(spec).items()
        if name in frozen and one.role in ROLES
    ]
    shapes = [shape for one in chosen for shape, _ in one.logical().values()]
    return StoredBase(
        few=sum(codec.bytes_of(shape) for shape in shapes),
        numbers=sum(map(math.prod, shapes)),
        largest=max((one.size for one in chosen), default=0),
        rounded_at_once=AT_ONCE if codec.rounds_inputs else 0,
    )
