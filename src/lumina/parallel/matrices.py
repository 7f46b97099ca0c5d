"""Which tensors are exchanged as products of two narrow matrices. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

LEAST_SAVED = 2
"""A matrix is taken apart where its factors are fewer numbers than it by more than
this factor; PyTorch's hook has the same default (`min_compression_rate`)."""


@dataclass(frozen=True)
class Matrices:
    """A tensor as one matrix, or as a stack of them, such as one for each expert.

    Attributes:
        count: matrices: the product of all axes but the last two.
        rows: of each.
        columns: of each.
        rank: columns of its two factors.
    """

    count: int
    rows: int
    columns: int
    rank: int

    @property
    def left(self) -> int:
        """Numbers of the factors that have as many rows as the matrices."""
        return self.count * self.rows * self.rank

    @property
    def right(self) -> int:
        """Numbers of the factors that have as many rows as the matrices columns."""
        return self.count * self.columns * self.rank

    @property
    def size(self) -> int:
        """Numbers of the tensor itself."""
        return self.count * self.rows * self.columns


def as_matrices(shape: Sequence[int], rank: int) -> Matrices | None:
    """A tensor of this shape as matrices that are worth taking apart; None: it is not.

    Args:
        shape: of the tensor.
        rank: columns of the factors, at least 1.
    """
    if len(shape) < 2:
        return None
    *stacked, rows, columns = shape
    if rank * (rows + columns) * LEAST_SAVED >= rows * columns:
        return None
    return Matrices(prod(stacked), rows, columns, rank)


@dataclass(frozen=True)
class Amount:
    """What gradients take when they are exchanged, in numbers.

    Attributes:
        whole: of all gradients.
        sent: of the factors, and of the gradients that stay whole.
        apart: of the gradients that are taken apart; their errors are as many.
        largest: of the largest gradient that is taken apart.
        right: of the factors that are kept from step to step.
    """

    whole: int = 0
    sent: int = 0
    apart: int = 0
    largest: int = 0
    right: int = 0


def amount(shapes: Iterable[Sequence[int]], rank: int) -> Amount:
    """What the gradients of tensors of these shapes take.

    Args:
        shapes: of what trains.
        rank: columns of the factors; 0: all gradients are exchanged whole.
    """
    whole = sent = apart = largest = right = 0
    for shape in shapes:
        size = prod(shape)
        whole += size
        found = as_matrices(shape, rank) if rank else None
        if found is None:
            sent += size
            continue
        sent += found.left + found.right
        apart += size
        largest = max(largest, size)
        right += found.right
    return Amount(whole, sent, apart, largest, right)
