"""How many ranks a run has along each dimension of its mesh."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import prod

from lumina.errors import LuminaError

DIMENSIONS = ("data", "sequence", "expert", "tensor")
"""The dimensions of a mesh; the ranks of the last one have consecutive numbers."""


@dataclass(frozen=True)
class Sizes:
    """Ranks along each dimension; their product is the number of processes.

    Attributes:
        data: shares of the rows of a step, whose ranks hold the same experts.
        sequence: shares of the positions of a row.
        expert: shares of the experts of a layer; its ranks have rows of their own, too.
        tensor: shares of a matrix.
    """

    data: int = 1
    sequence: int = 1
    expert: int = 1
    tensor: int = 1

    @staticmethod
    def of(
        world_size: int, *, sequence: int = 1, expert: int = 1, tensor: int = 1
    ) -> Sizes:
        """The sizes of a run: data gets the ranks that the other dimensions leave.

        Args:
            world_size: processes in all.
            sequence: ranks along that dimension.
            expert: likewise.
            tensor: likewise.

        Raises:
            LuminaError: E002 where the processes cannot be divided so.
        """
        others = sequence * expert * tensor
        data, left = divmod(world_size, others)
        if left or not data:
            raise LuminaError(
                "E002",
                f"{world_size} process{'es' if world_size > 1 else ''} cannot be "
                f"divided into groups of {others} (sequence {sequence} x expert "
                f"{expert} x tensor {tensor})",
                f"start a multiple of {others} processes",
            )
        return Sizes(data, sequence, expert, tensor)

    @property
    def rows(self) -> int:
        """Ranks among which the rows of a step are divided."""
        return self.data * self.expert

    @property
    def tokens(self) -> int:
        """Ranks among which the tokens of a step are divided."""
        return self.rows * self.sequence

    @property
    def total(self) -> int:
        """Processes in all."""
        return prod(astuple(self))
