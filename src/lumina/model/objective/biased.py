"""Next-token prediction whose head adds a bias to the score of each token."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.batch import Batch
from lumina.model.interface import LossSums, Output
from lumina.model.layers import Linear
from lumina.model.objective.language_model import LanguageModelObjective
from lumina.model.spec import ModelSpec

_MORE = 8
"""Columns that the matrix gets: the bias, and zeros to a width that kernels like."""


class BiasedObjective(LanguageModelObjective):
    """As `LanguageModelObjective`; the bias is a column that multiplies a 1.

    So the loss needs no kernel of its own, and a copy of the matrix while it is there.
    """

    def __init__(self, spec: ModelSpec, loss_chunk_bytes: int) -> None:
        super().__init__(spec, loss_chunk_bytes)
        self.head = Linear(spec.hidden_size, spec.padded_vocab_size, bias=True)

    def matrix(self, tied: Tensor | None) -> Tensor:
        """[padded vocabulary, D + 8], the bias behind the head's matrix."""
        assert self.head is not None and self.head.bias is not None
        whole, bias = self.head.matrix(), self.head.bias
        return torch.cat([whole, F.pad(bias[:, None], (0, _MORE - 1))], dim=1)

    def forward(
        self, output: Output, batch: Batch, tied: Tensor | None = None
    ) -> LossSums:
        """As there."""
        return super().forward(replace(output, hidden=_longer(output.hidden)), batch)

    def logits(self, hidden: Tensor, tied: Tensor | None = None) -> Tensor:
        """As there."""
        return super().logits(_longer(hidden))


def _longer(hidden: Tensor) -> Tensor:
    """[..., D + 8]: a 1 behind each vector, and zeros."""
    one = F.pad(hidden.new_ones((*hidden.shape[:-1], 1)), (0, _MORE - 1))
    return torch.cat([hidden, one], dim=-1)
