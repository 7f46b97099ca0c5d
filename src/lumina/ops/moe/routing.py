"""What a router decides about the tokens of a forward."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Routing(NamedTuple):
    """What the router decided.

    Attributes:
        logits_te: [T, E] float32, as they come from the router.
        probs_te: [T, E] float32, each token's scores as shares of one.
        ids_tk: [T, k] chosen experts, best first.
        scores_tk: [T, k] float32 weights of the chosen experts.
        next_tj: [T, j] the experts that follow them, best first; none where nothing
            is sent on.
        next_scores_tj: [T, j] float32, what their weights would be.
    """

    logits_te: Tensor
    probs_te: Tensor
    ids_tk: Tensor
    scores_tk: Tensor
    next_tj: Tensor
    next_scores_tj: Tensor
