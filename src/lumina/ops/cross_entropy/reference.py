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
    smoothing: float = 0.0,
) -> Tensor:
    """Sum over tokens of weight * -log softmax(hidden W')[label].

    With smoothing s the label is 1 - s + s / vocab_size at its place, and
    s / vocab_size elsewhere (Szegedy et al., 2016, arXiv:1512.00567).

    Args:
        hidden_td: [T, D].
        weight_vd: [padded vocabulary, D]; rows from `vocab_size` on take no part.
        labels_t: [T] int64, `IGNORE` where there is no loss.
        weights_t: [T] float32, or None for ones.
        smoothing: share of a label that all tokens have alike.

    Returns:
        [] float32.
    """
    logits_tv = F.linear(hidden_td, weight_vd.to(hidden_td.dtype))[:, :vocab_size]
    loss_t = F.cross_entropy(
        logits_tv.float(),
        labels_t,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=smoothing,
    )
    return (loss_t if weights_t is None else loss_t * weights_t).sum()
