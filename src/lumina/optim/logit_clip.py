"""QK-clip: queries and keys are scaled down where attention logits grow too large.

Kimi K2 (Kimi Team, 2025, arXiv:2507.20534), section 2.1. Logits of a few heads can grow
without bound, with Muon more often than with AdamW, and then the loss spikes. After a
step, the weights of the heads whose largest logit was above the threshold are scaled so
that the same tokens would have met it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.optim.optimizer import Slot
from lumina.optim.sharded import rows_here
from lumina.parallel.mesh import RankGroup


@dataclass
class ClippedAttention:
    """What scales the logits of one attention layer.

    Attributes:
        slots: the projections of queries and keys, by their names in the layer.
        rows: from the factors [H] of the logits to those [rows] of each projection.
        largest: [H] float32, the largest logit of each head in the step's forwards.
    """

    slots: Mapping[str, Slot]
    rows: Callable[[Tensor], Mapping[str, Tensor]]
    largest: Tensor


class LogitClip:
    """Keeps the largest logit of every head at a threshold.

    The logits of a head whose largest one is m, above the threshold t, are scaled by
    t / m; the layer knows which rows of its weights that means. The logits of other
    heads stay as they are.

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
            for name, rows in layer.rows(factors).items():
                slot = layer.slots[name]
                here = rows[rows_here(slot.parameter)]
                slot.master.mul_(here.view(-1, *(1,) * (slot.master.ndim - 1)))
                slot.write_back()
        self._begin_anew()
        self.found = torch.stack([largest.amax(), (wanted < 1).sum().float()])

    def forget(self) -> None:
        """Release the logits of a step that changes no weights."""
        self._begin_anew()
        self.found = torch.full_like(self.found, -torch.inf)

    def _begin_anew(self) -> None:
        """Nothing is seen yet of the next step."""
        for layer in self.layers:
            layer.largest.fill_(-torch.inf)
