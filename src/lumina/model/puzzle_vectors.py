"""The learned vectors of puzzle identifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PuzzleVectors(nn.Module):
    """A table of which every row of a batch uses one vector.

    There may be a million of them and a batch uses hundreds. So the gradient of the
    vectors that are used is what is kept, not one of the table's size: they are handed
    out apart from it, and `lumina.optim.sign_sgd` updates the table.

    Args:
        count: identifiers.
        width: of a vector.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))

    def forward(self, ids: Tensor) -> Tensor:
        """[B] int64 to [B, D]; in training a leaf that gathers its own gradient."""
        rows = F.embedding(ids, self.weight).detach()
        learns = self.training and torch.is_grad_enabled()
        return rows.requires_grad_() if learns else rows
