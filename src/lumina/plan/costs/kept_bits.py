"""What an activation takes that is kept in few bits; without torch."""

from __future__ import annotations

GROUP = 64
"""Neighbouring numbers of an activation that share a scale."""

AT_A_TIME = 2**24
"""Numbers that are coded together."""

CODING = 24
"""Bytes that coding takes for each of them while it is under way."""

CODECS = {8: "int8", 4: "nf4"}
"""Bits -> the codec of `lumina.ops.low_bits`."""


def bytes_of_a_number(bits: int) -> float:
    """Bytes of one number with its part of the float32 scale of its group."""
    return bits / 8 + 4 / GROUP
