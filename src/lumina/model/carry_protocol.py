"""What training needs of a recurrent backbone, whichever it is.

A carry belongs to the rows of a forward: row b of one step goes on in row b of the
next. The rows that the data gives in consecutive steps are unrelated documents (they
are shuffled), so a backbone may carry state between steps in one way only: it keeps
what it works on (the row's ids and labels) in the carry as well, and takes the batch's
row when it is done with it, as a reasoner does. State of a text itself starts over at
every document's first token (`Batch.position_ids` 0) and never leaves the row; when
text is continued, that state lives in the cache (`Cache.remember`).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lumina.batch import Batch
from lumina.model.interface import Output


class Carry(Protocol):
    """Recurrent state of a batch's rows, without gradient."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, each [B, ...]: what a checkpoint keeps."""
        ...

    def begin_anew(self, rows: Tensor) -> None:
        """Make rows forget everything, values that are not finite included.

        Args:
            rows: [B] or [] bool on the carry's device. Not read on the host.
        """
        ...


class RecurrentBackbone(Protocol):
    """A backbone with `recurrent = True`.

    In training it is called with the `Output.carry` of the step before, None at first;
    in evaluation without one.
    """

    recurrent: bool

    def __call__(self, batch: Batch, carry: Carry | None = None) -> Output:
        """One training step's worth of a batch."""
        ...

    def carry_from(self, tensors: dict[str, Tensor]) -> Carry:
        """The inverse of `Carry.tensors`; types as the backbone computes in."""
        ...
