"""What a logical tensor of a network is: its role and its axes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """What a logical tensor is.

    Attributes:
        role: matrix, embedding, head, norm, bias, expert, router or buffer; puzzle for
            the table of puzzle vectors.
        axes: the name of each dimension, outermost first.
    """

    role: str
    axes: tuple[str, ...] = ()
