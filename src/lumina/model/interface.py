"""What comes out of a model: `Output`, `LossSums`, `Scores`.

The shape suffixes are those of `lumina.batch`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Output:
    """What a backbone returns.

    Attributes:
        hidden: [B, S, D], after the final norm.
        aux: sums that ride along, keyed by a fixed set of names per Plan. Scalars
            (`moe.balance_loss`, `moe.z_loss`) are sums over the micro-batch's tokens,
            to be divided by the step's tokens over all ranks and micro-batches;
            counts (`moe.counts` [L, E], `moe.dropped` [L]) carry no gradient and add.
        carry: recurrent state to hand to the next segment, or None.
    """

    hidden: Tensor
    aux: dict[str, Tensor] = field(default_factory=dict)
    carry: Any = None


@dataclass
class LossSums:
    """What an objective returns, all as sums, so that any split adds up.

    Attributes:
        loss_sum: [] float32, cross entropy summed over the counted positions.
        weight_sum: [] float32, the number (or weight) of counted positions.
        terms: further sums by name, for metrics.
        carry: recurrent state for the next step, where the model has one.
        trained_sum: [] float32, what is minimised, where that is not the cross entropy
            that `loss_sum` reports; a sum over the same positions.
        aux: the auxiliary sums of the backbone and of the objective, see `Output.aux`.
    """

    loss_sum: Tensor
    weight_sum: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    carry: Any = None
    trained_sum: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What a network returns when it is called with token ids.

    Attributes:
        logits: [B, S, vocab_size] float32, scores of the next token after each position
            (of puzzles, of the solution's token at it).
        loss: [] float32, the mean cross entropy of the labels; None without labels.
    """

    logits: Tensor
    loss: Tensor | None = None
