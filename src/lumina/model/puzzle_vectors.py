"""The learned vectors of puzzle identifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PuzzleVectors(nn.Module):
    """A table of which every row of a batch uses one vector.

    There may be a million vectors, and a batch uses hundreds. So only the gradients of
    the vectors that are used are kept, not a gradient of the table's size: each forward
    in training adds an entry to `touched`, and the optimizer of the table reads them.

    Args:
        count: identifiers.
        width: of a vector.

    Attributes:
        touched: for each forward of the step, identifiers [B] and the leaf [B, D] that
            gathers their gradient; None where no optimizer trains the table.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        self.touched: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """[B] int64 to [B, D]; in training a leaf that gathers its own gradient."""
        rows = F.embedding(ids, self.weight).detach()
        if not (self.training and torch.is_grad_enabled()):
            return rows
        rows.requires_grad_()
        if self.touched is not None:
            self.touched.append((ids, rows))
        return rows
