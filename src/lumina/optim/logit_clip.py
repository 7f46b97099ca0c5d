"""QK-clip: queries and keys are scaled down where attention logits grow too large.

Kimi K2 (Kimi Team, 2025, arXiv:2507.20534), section 2.1. Logits of a few heads can grow
without bound, with Muon more often than with AdamW, and then the loss spikes. After a
step, the weights of the heads whose largest logit was above the threshold are scaled so
that the same tokens would have met it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.optim.optimizer import Slot
from lumina.optim.sharded import rows_here
from lumina.parallel.mesh import RankGroup


@dataclass
class ClippedAttention:
    """The projections of one attention layer.

    Attributes:
        slots: the fused matrix of queries, keys and values, and its bias if there is
            one; the first axis is H + 2 K heads of `head_dim` rows.
        heads: H, of queries.
        groups: K, of keys.
        head_dim: rows of a head.
        largest: [H] float32, the largest logit of each head in the step's forwards.
    """

    slots: list[Slot]
    heads: int
    groups: int
    head_dim: int
    largest: Tensor


class LogitClip:
    """Keeps the largest logit of every head at a threshold.

    A head of queries whose largest logit is m above the threshold t needs its logits
    scaled by g = t / m. Keys are shared by a group of heads: they take the square root
    of the group's smallest g, and each head of queries takes what its own g still
    lacks. So the logits of a head below the threshold stay as they are, also where
    another one of its group is clipped. With one head in a group, queries and keys
    take the square root of g each, as in the paper.

    Args:
        layers: what is clipped.
        threshold: the largest logit that is left alone; the paper's is 100.
        tokens: ranks among which the tokens of a step are divided.

    Attributes:
        found: [2] float32 of the last step: the largest logit, minus infinity where
            there was none, and how many heads were scaled.
    """

    def __init__(
        self, layers: list[ClippedAttention], threshold: float, tokens: RankGroup
    ) -> None:
        self.layers = layers
        self.threshold = threshold
        self.tokens = tokens
        self.found = torch.zeros(2, device=layers[0].largest.device)

    @torch.no_grad()
    def apply(self, skip: Tensor) -> None:
        """Scale what was above the threshold, and forget the logits of the step.

        Args:
            skip: [] float32, 1.0 where the step changed nothing; nothing is clipped.
        """
        largest = torch.stack([layer.largest for layer in self.layers])
        largest = self.tokens.stack(largest).amax(0)
        wanted = self.threshold / largest.clamp(min=self.threshold)
        wanted = torch.where(skip > 0, torch.ones_like(wanted), wanted)
        for layer, factors in zip(self.layers, wanted, strict=True):
            rows = _factors_of_rows(layer, factors)
            for slot in layer.slots:
                here = rows[rows_here(slot.parameter)]
                slot.master.mul_(here.view(-1, *(1,) * (slot.master.ndim - 1)))
                slot.write_back()
        self._begin_anew()
        self.found = torch.stack([largest.amax(), (wanted < 1).sum().float()])

    def forget(self) -> None:
        """Let go of the logits of a step that changes no weights."""
        self._begin_anew()
        self.found = torch.full_like(self.found, -torch.inf)

    def _begin_anew(self) -> None:
        """Nothing is seen yet of the next step."""
        for layer in self.layers:
            layer.largest.fill_(-torch.inf)


def _factors_of_rows(layer: ClippedAttention, factors: Tensor) -> Tensor:
    """[rows of the fused matrix] from the factors [H] of the logits."""
    by_group = factors.view(layer.groups, -1)
    keys = by_group.amin(1).sqrt()
    queries = (by_group / keys[:, None]).flatten()
    heads = torch.cat([queries, keys, torch.ones_like(keys)])
    return heads.repeat_interleave(layer.head_dim)
