"""Sign descent on the rows of a table that a batch uses, as sapientinc/HRM does it.

A puzzle is seen so seldom that moments would be empty; of Adam's first step only the
sign is left. Nothing is kept beside the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.declared import register_optimizer
from lumina.optim.optimizer import Optimizer, Slot
from lumina.parallel.mesh import RankGroup


@register_optimizer(
    "sign_sgd",
    words="sign descent",
    settings={"learning_rate": "puzzle_lr", "weight_decay": "puzzle_weight_decay"},
    roles=("puzzle",),
    averaged=False,
)
class SignSGD(Optimizer):
    """The optimizer of tables, whole on every rank, of which a step uses a few rows.

    Weight decay is decoupled, and applies to the rows that are used only.

    Args:
        slots: the tables, each with its `touched` rows.
        options: none that the step reads.
        device: where the tables are.
        ranks: those among which the tokens of a step are divided; None: one alone.
    """

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        # For each slot: sorted numbers of the rows used, and the sums of their
        # gradients.
        self._found: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def gather(self) -> Tensor:
        """Add up the gradients of every row, over all forwards and ranks.

        Returns:
            [] float32, 1.0 where one of them is not finite.
        """
        self._found = [self._summed(slot) for slot in self.slots]
        finite = [torch.isfinite(sums).all() for _, sums in self._found]
        return 1.0 - torch.stack(finite).all().float()

    def _summed(self, slot: Slot) -> tuple[Tensor, Tensor]:
        """Numbers of the rows used [N], sorted, and the sum of each one's gradients."""
        assert slot.touched is not None
        ids = torch.cat([ids for ids, _ in slot.touched])
        gradients = torch.cat([_gradient(rows) for _, rows in slot.touched])
        if self.ranks is not None:
            # The ranks' rows, one after the other.
            ids, gradients = (
                self.ranks.stack(rows).flatten(0, 1) for rows in (ids, gradients)
            )
        # One after the other in float64: the same sign each time and on every rank.
        sorted_ids, order = ids.sort(stable=True)
        begins = sorted_ids[1:] != sorted_ids[:-1]
        place = torch.cat([begins.new_zeros(1), begins]).cumsum(0)
        lengths = torch.zeros_like(place).index_add_(0, place, torch.ones_like(place))
        sums = torch.segment_reduce(
            gradients[order].double(), "sum", lengths=lengths, initial=0.0, unsafe=True
        )
        return sorted_ids, sums[place]

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update the rows that were used; the others do not change.

        Args:
            lr: [] float32 on the device.
            weight_decay: decoupled decay of the rows that are used.
            divisor: not used: a sign has no scale.
            skip: [] float32, 1.0 where nothing may change.
        """
        for slot, (ids, sums) in zip(self.slots, self._found, strict=True):
            old = slot.master[ids]
            kept = old * (1.0 - lr * weight_decay)
            moved = (kept - lr * sums.sign()).to(old.dtype)
            # A row used twice stands here twice, with the same value.
            slot.master.index_copy_(0, ids, torch.where(skip > 0, old, moved))


def _gradient(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if rows.grad is None else rows.grad
