"""Weights that training stays near: decoupled L2-SP.

L2-SP (Li, Grandvalet and Davoine, 2018, arXiv:1802.01483) penalises the squared
distance to the weights that a fine-tuning starts from, so that what they know is kept.
Added to the loss, the penalty would be divided by Adam's second moment as any gradient
is; here it is decoupled, as weight decay is (Loshchilov and Hutter, 2019,
arXiv:1711.05101): each step takes back a share of the distance that follows the
learning rate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.optim.optimizer import Slot
from lumina.parallel.mesh import RankGroup


class BaseWeights:
    """A copy of the trained matrices, and the pull towards it.

    Args:
        slots: the trained parameters; vectors and tables of rows are left alone.
        rate: the share of the distance that a step takes back, for each unit of the
            learning rate.

    Raises:
        LuminaError: E002 where no matrix trains as a whole.
    """

    def __init__(self, slots: list[Slot], rate: float) -> None:
        self.slots = [slot for slot in slots if slot.decay and slot.touched is None]
        if not self.slots:
            raise LuminaError(
                "E002",
                "no matrix trains as a whole that could be kept near its base",
                "leave --preserve-base-knowledge out, or train more of the model",
            )
        self.rate = rate
        self.weights: list[Tensor] = [slot.master.clone() for slot in self.slots]

    @torch.no_grad()
    def pull(self, learning_rate: Tensor, skip: Tensor) -> None:
        """Move the masters towards the copy; call it before the optimizer's step.

        Args:
            learning_rate: [] of the step.
            skip: [] float32, 1.0 where nothing may change.
        """
        share = (learning_rate * self.rate).clamp(max=1.0) * (1.0 - skip)
        for slot, weights in zip(self.slots, self.weights, strict=True):
            slot.master.lerp_(weights, share)
            if slot.gradient() is None:  # the optimizer will not write it back
                slot.write_back()

    @torch.no_grad()
    def distance(
        self,
        ranks: RankGroup | None,
        counts: Callable[[Slot], bool] = lambda slot: True,
    ) -> float:
        """How far the matrices are from the copy, over the size of the copy.

        Args:
            ranks: those that hold parts of the matrices; None where each has all.
            counts: whether what this rank has of a matrix is a part of the sum.
        """
        sums = torch.zeros(2, dtype=torch.float64, device=self.weights[0].device)
        for slot, weights in zip(self.slots, self.weights, strict=True):
            if not counts(slot):
                continue
            sums[0] += (slot.master - weights).double().square().sum()
            sums[1] += weights.double().square().sum()
        if ranks is not None:
            ranks.sum_(sums)
        moved, size = sums.tolist()
        return float((moved / size) ** 0.5) if size else 0.0
