"""Cross entropy of a linear head with all logits at once, in float32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def cross_entropy(
    hidden_td: Tensor,
    weight_vd: Tensor,
    labels_t: Tensor,
    weights_t: Tensor | None,
    vocab_size: int,
) -> Tensor:
    """Sum over tokens of weight * -log softmax(hidden W')[label].

    Args:
        hidden_td: [T, D].
        weight_vd: [padded vocabulary, D]; rows from `vocab_size` on take no part.
        labels_t: [T] int64, `IGNORE` where there is no loss.
        weights_t: [T] float32, or None for ones.

    Returns:
        [] float32.
    """
    logits_tv = F.linear(hidden_td, weight_vd.to(hidden_td.dtype))[:, :vocab_size]
    loss_t = F.cross_entropy(
        logits_tv.float(), labels_t, ignore_index=IGNORE, reduction="none"
    )
    return (loss_t if weights_t is None else loss_t * weights_t).sum()
