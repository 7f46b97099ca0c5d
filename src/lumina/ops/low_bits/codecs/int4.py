"""4-bit integers in groups of 128."""

from __future__ import annotations

from lumina.ops.low_bits.codec import register_codec
from lumina.ops.low_bits.fast import DecodedAtOnce
from lumina.ops.low_bits.grouped import GroupedIntegers


@register_codec
class Int4(DecodedAtOnce, GroupedIntegers):
    """16 steps between the least and the largest value of each group."""

    name, bits, kernel = "int4", 4, "integers_into"
    summary = (
        "4-bit integers in groups of 128, a scale and a zero point each (4.3 bits)"
    )
