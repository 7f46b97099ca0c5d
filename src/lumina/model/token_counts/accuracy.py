"""How many tokens and documents of a step were predicted right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lumina.model.token_count import TokenCount, bears_loss, register_token_count

if TYPE_CHECKING:
    from torch import Tensor

    from lumina.batch import Batch
    from lumina.model.interface import LossSums


@register_token_count
class Accuracy(TokenCount):
    """[4]: tokens that bear loss, those of them whose label has the highest score,
    documents with such tokens, and those of them in which every such token is right.
    """

    name = "accuracy"
    key = "accuracy.statistics"
    shape = (4,)

    @staticmethod
    def sums(losses: LossSums, batch: Batch) -> Tensor:
        """The part of a document that lies in one row counts as a document.

        Where the objective does not say which tokens it predicts right, the sums are
        not numbers.
        """
        import torch

        right_bs = losses.terms.get("right")
        if right_bs is None:
            return torch.full((4,), math.nan, device=batch.labels.device)
        counted_bs = bears_loss(batch)
        right_bs = counted_bs & (right_bs > 0)
        ids = batch.document_ids
        begins_bs = torch.zeros_like(ids)
        begins_bs[:, 1:] = ids[:, 1:] != ids[:, :-1]
        place_bs = begins_bs.cumsum(1)  # 0, 1, ... along the row
        counted_bn, right_bn = (
            torch.zeros_like(ids).scatter_add_(1, place_bs, one.to(ids.dtype))
            for one in (counted_bs, right_bs)
        )
        documents_bn = counted_bn > 0
        found = (
            counted_bs,
            right_bs,
            documents_bn,
            documents_bn & (right_bn == counted_bn),
        )
        return torch.stack([one.sum(dtype=torch.float32) for one in found])

    @staticmethod
    def metrics(counted: Tensor) -> dict[str, Any]:
        """Shares of right tokens and of documents that are right everywhere.

        A step without a token that bears loss, or whose objective does not say what is
        right, has none.
        """
        tokens, right, documents, whole = counted.tolist()
        known = tokens > 0 and not math.isnan(tokens)
        return {
            "token_accuracy": right / tokens if known else None,
            "sequence_accuracy": whole / documents if known else None,
        }
