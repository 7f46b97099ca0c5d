"""How far the scores of one model are from those of another on the same tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.batch import IGNORE, Batch

AT_ONCE = 2**24
"""Most scores of each model that are held at a time."""


def divergence_sums(
    hidden: Tensor,
    others: Tensor,
    batch: Batch,
    scores: Callable[[Tensor], Tensor],
    vocabulary: int,
) -> Tensor:
    """Sums over the tokens of a batch that bear loss.

    Args:
        hidden: [B, S, D] of the model that is compared with.
        others: [B, S, D] of the other one.
        batch: labels, and weights of the loss.
        scores: [1, N, D] to [1, N, vocabulary] float32, for both.
        vocabulary: how many scores a token has.

    Returns:
        [4] float64: the divergence KL(model || other) in nats, the loss of the model,
        the loss of the other, and the weight of the tokens.
    """
    labels = batch.labels.flatten()
    counted = labels != IGNORE
    weights = torch.ones_like(labels, dtype=torch.float32)
    if batch.loss_weights is not None:
        weights = batch.loss_weights.flatten().float()
    sums = torch.zeros(4, dtype=torch.float64, device=labels.device)
    rows = zip(
        *(
            part[counted].split(max(1, AT_ONCE // vocabulary))
            for part in (hidden.flatten(0, 1), others.flatten(0, 1), labels, weights)
        ),
        strict=True,
    )
    for one, other, label, weight in rows:
        mine, theirs = (scores(x[None])[0].log_softmax(-1) for x in (one, other))
        apart = F.kl_div(theirs, mine, log_target=True, reduction="none").sum(-1)
        losses = (
            F.nll_loss(scored, label, reduction="none") for scored in (mine, theirs)
        )
        values = torch.stack([apart, *losses, torch.ones_like(apart)])
        sums += (values * weight).double().sum(-1)
    return sums
