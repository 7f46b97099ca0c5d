"""AdamW whose moments are kept in less than float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumina.ops.triton_there import has_triton
from lumina.optim.arithmetic import with_gradients
from lumina.optim.moments import TwoMoments
from lumina.optim.optimizer import Slot
from lumina.parallel.mesh import RankGroup

if TYPE_CHECKING:
    from lumina.ops.small_adamw.fused import Rates, StepScalars

PART = 2**23
"""Most elements whose moments are float32 at a time."""


class SmallMoments(TwoMoments):
    """AdamW, part by part: moments become float32, take the step, and are stored.

    Args:
        slots: the parameters it trains.
        options: beta1 and beta2, the decay rates of the moments, and eps, which is
            added to the denominator.
        device: where the step counter lives.
        ranks: those among which the tokens of a step are divided; None: one alone.
        fused: use the one-pass kernels; default: on CUDA where Triton is there.
    """

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        self.eps = options["eps"]
        if fused is None:
            fused = device.type == "cuda" and has_triton()
        self.fused = fused

    def load(self, slot: Slot, rows: slice) -> tuple[Tensor, Tensor]:
        """Both moments of some rows of a slot, [R, columns] float32, to be changed."""
        raise NotImplementedError

    def store(
        self, slot: Slot, rows: slice, mean: Tensor, square: Tensor, skip: Tensor
    ) -> None:
        """Keep both moments of some rows of a slot, unless the step is skipped."""
        raise NotImplementedError

    def step_fused(
        self, slot: Slot, gradient: Tensor, scalars: StepScalars, rates: Rates
    ) -> None:
        """One kernel for a slot: its moments, its master and its weights."""
        raise NotImplementedError

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master; arguments as of `Optimizer.step`."""
        moves = 1.0 - skip
        self.steps.add_(moves)
        correction1, correction2 = self.corrections()
        if self.fused:
            scalars = (lr, divisor, skip, correction1, correction2)
            self._step_fused(scalars, weight_decay)
            return
        rate = lr * moves
        for slot, whole in with_gradients(self.slots, divisor, skip):
            if not whole.numel():  # other ranks hold all rows
                continue
            master = slot.master.view(-1, slot.master.shape[-1])
            gradients = whole.view(master.shape)
            for rows in _parts(master):
                gradient = gradients[rows]
                mean, square = self.load(slot, rows)
                mean.lerp_(gradient, (1.0 - self.beta1) * moves)
                square.lerp_(gradient.square(), (1.0 - self.beta2) * moves)
                self.store(slot, rows, mean, square, skip)
                update = (mean / correction1) / (
                    (square / correction2).sqrt() + self.eps
                )
                if slot.decay:
                    master[rows].mul_(1.0 - rate * weight_decay)
                master[rows].sub_(rate * update)
            slot.write_back()

    def _step_fused(self, scalars: tuple[Tensor, ...], weight_decay: float) -> None:
        """One kernel a slot, which reads gradients in whatever type they have."""
        from lumina.ops.small_adamw.fused import Rates, StepScalars

        for slot in self.slots:
            gradient = slot.gradient()
            if gradient is None or not gradient.numel():
                continue
            decay = weight_decay if slot.decay else 0.0
            self.step_fused(
                slot,
                gradient.contiguous(),
                StepScalars(*scalars),
                Rates(self.beta1, self.beta2, self.eps, decay),
            )
            slot.settle()


def _parts(rows: Tensor) -> Iterator[slice]:
    """Rows of [R, columns] that are float32 at a time."""
    many = max(1, PART // max(1, rows.shape[1]))
    for first in range(0, rows.shape[0], many):
        yield slice(first, min(first + many, rows.shape[0]))
