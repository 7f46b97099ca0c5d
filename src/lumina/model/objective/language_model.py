"""Next-token prediction: the head and its cross entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.batch import IGNORE, Batch
from lumina.model.interface import LossSums, Output
from lumina.model.layers import Linear
from lumina.model.spec import ModelSpec
from lumina.ops.cross_entropy.chunked import cross_entropy


class LanguageModelObjective(nn.Module):
    """Linear head over a padded vocabulary, and a loss that never holds all logits.

    Logits past `spec.vocab_size` take no part in the softmax and are never returned.

    Args:
        spec: the resolved shape; with `tie_embeddings` there is no head of its own and
            the embedding's weight is handed to every call.
        loss_chunk_bytes: most bytes of float32 logits held at a time.

    Attributes:
        label_smoothing: share of a label that all tokens have alike, in training; what
            is reported stays the plain cross entropy.
    """

    predicts_next = True

    def __init__(self, spec: ModelSpec, loss_chunk_bytes: int) -> None:
        super().__init__()
        self.label_smoothing = 0.0
        self.vocab_size = spec.vocab_size
        self.loss_chunk_bytes = loss_chunk_bytes
        self.head = (
            None
            if spec.tie_embeddings
            else Linear(spec.hidden_size, spec.padded_vocab_size)
        )

    def matrix(self, tied: Tensor | None) -> Tensor:
        """The head's matrix [padded vocabulary, D]."""
        if self.head is not None:
            return self.head.matrix()
        assert tied is not None, "a tied objective needs the embedding's weight"
        return tied

    def forward(
        self, output: Output, batch: Batch, tied: Tensor | None = None
    ) -> LossSums:
        """Cross entropy sums of a batch.

        Args:
            output: of the backbone; its hidden states are [B, S, D].
            batch: its labels and loss weights.
            tied: the embedding's weight, for tied models.

        Returns:
            Sums; `terms` has "correct", the counted tokens (unweighted) whose label
            had the highest logit, "each" [B, S], every token's loss, "right" [B, S], 1
            where a token's label had the highest logit, and "log_z" [B, S], the log of
            the sum of the exponentials of its logits.
        """
        weights = batch.loss_weights
        labels_t = batch.labels.reshape(-1)
        weights_t = None if weights is None else weights.reshape(-1)
        sums = cross_entropy(
            output.hidden.flatten(0, 1),
            self.matrix(tied),
            labels_t,
            weights_t,
            self.vocab_size,
            self.loss_chunk_bytes,
            self.label_smoothing if self.training else 0.0,
        )
        counted_t = (labels_t != IGNORE).to(torch.float32)
        if weights_t is not None:
            counted_t = counted_t * weights_t
        shape = batch.labels.shape
        terms = {
            "correct": sums.correct,
            "each": sums.loss_t.view(shape),
            "right": sums.correct_t.view(shape),
            "log_z": sums.log_z_t.view(shape),
        }
        return LossSums(sums.loss, counted_t.sum(), terms, trained_sum=sums.trained)

    def logits(self, hidden: Tensor, tied: Tensor | None = None) -> Tensor:
        """Scores of the next token.

        Args:
            hidden: [B, S, D].
            tied: the embedding's weight, for tied models.

        Returns:
            [B, S, vocab_size] float32.
        """
        scores = F.linear(hidden, self.matrix(tied).to(hidden.dtype))
        return scores[..., : self.vocab_size].float()
