"""Narrow pairs of matrices that stand on a wide one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Pair(NamedTuple):
    """What adds `scale * B A` to rows of a matrix.

    Attributes:
        a: [rank, in].
        b: [end - begin, rank].
        scale: a factor.
        begin: the first of its outputs.
    """

    a: Tensor
    b: Tensor
    scale: float
    begin: int
