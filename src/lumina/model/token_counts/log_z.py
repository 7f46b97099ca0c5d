"""How large the normaliser of the softmax over the vocabulary is.

Log Z is the log of the sum of the exponentials of a token's logits. The cross entropy
does not change when all logits rise together, so nothing holds log Z in place, and
where it drifts far, half precision loses the differences between logits (de Brébisson
and Vincent, 2016, arXiv:1604.08859; Chowdhery et al., 2022, arXiv:2204.02311; Wortsman
et al., 2023, arXiv:2309.14322).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lumina.model.token_count import TokenCount, bears_loss, register_token_count

if TYPE_CHECKING:
    from torch import Tensor

    from lumina.batch import Batch
    from lumina.model.interface import LossSums


@register_token_count
class LogZ(TokenCount):
    """[2]: tokens that bear loss, and their log Z added up."""

    name = "log_z"
    key = "log_z.statistics"
    shape = (2,)

    @staticmethod
    def sums(losses: LossSums, batch: Batch) -> Tensor:
        """Where the objective makes no softmax over a vocabulary: not numbers."""
        import torch

        log_z_bs = losses.terms.get("log_z")
        if log_z_bs is None:
            return torch.full((2,), math.nan, device=batch.labels.device)
        counted_bs = bears_loss(batch)
        # A token that does not count may have logits that are not finite.
        sums = (counted_bs.float(), torch.where(counted_bs, log_z_bs.detach(), 0.0))
        return torch.stack([one.sum(dtype=torch.float32) for one in sums])

    @staticmethod
    def metrics(counted: Tensor) -> dict[str, Any]:
        """The mean; none in a step without a token that bears loss."""
        tokens, total = counted.tolist()
        known = tokens > 0 and not math.isnan(total)
        return {"log_z": total / tokens if known else None}
