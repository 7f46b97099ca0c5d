"""Absolute positions, added to the token vectors before the first block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.errors import LuminaError

SINUSOID_BASE = 10000.0
"""The slowest channels of `sinusoids` turn once in 2 pi times this many tokens."""


class LearnedPositions(nn.Module):
    """A vector for each position of a training row, `weight` [seq_length, D].

    As GPT-2 and BERT have them: no position past the table has a meaning.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, width))

    def forward(self, position_ids: Tensor) -> Tensor:
        """[B, S] int64 to [B, S, D] in the type of the weight."""
        return F.embedding(position_ids, self.weight)

    def check(self, position_ids: Tensor, columns: int) -> None:
        """Refuse positions that have no vector.

        Args:
            position_ids: [B, S] int64, only looked at where it may be too large: a
                look waits for the device.
            columns: no position is as large as this.

        Raises:
            LuminaError: E002.
        """
        length = self.weight.shape[0]
        if columns <= length:
            return
        last = int(position_ids.max())
        if last >= length:
            raise LuminaError(
                "E002",
                f"position {last + 1:,} of a document has no vector: pos_encodings "
                f"learned has {length:,}, one for each token of a training row",
                "shorten the text, or train with --pos-encodings rope or sinusoidal",
            )


def sinusoids(position_ids: Tensor, width: int) -> Tensor:
    """Sines and cosines of falling frequency (Vaswani et al., 2017, section 3.5).

    Channel 2i is sin(p / 10000^(2i / D)), channel 2i + 1 the cosine. Computed, so
    there is one for any position.

    Args:
        position_ids: [B, S] int64.
        width: D, even.

    Returns:
        [B, S, D] float32.
    """
    pairs = torch.arange(0, width, 2, dtype=torch.float32, device=position_ids.device)
    angles = position_ids[..., None].float() * SINUSOID_BASE ** (-pairs / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
