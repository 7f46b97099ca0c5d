"""AdamW with bfloat16 moments, rounded stochastically.

Rounded to the nearest, a moment would stand still where a step changes it by less than
half of its last bit; rounded up or down at random it follows in the mean (Gupta et al.,
2015, arXiv:1502.02551).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumina.optim.declared import StateTensor, by_element, register_optimizer
from lumina.optim.moments import MOMENTS
from lumina.optim.optimizer import Slot, local
from lumina.optim.rounding import name_key, random_bits, rounded
from lumina.optim.sharded import rows_here
from lumina.optim.small_moments import SmallMoments

if TYPE_CHECKING:
    from lumina.ops.small_adamw.fused import Rates, StepScalars


@register_optimizer(
    "adamw_bf16",
    words="AdamW with bfloat16 moments",
    transfer=by_element,
    states={name: StateTensor(bytes_per_parameter=2) for name in MOMENTS},
    settings={"beta1": "beta1", "beta2": "beta2", "eps": "eps"},
)
class AdamWBF16(SmallMoments):
    """How a number is rounded follows from its tensor, its place and the step."""

    def first_states(self, slot: Slot) -> dict[str, Tensor]:
        """Moments of 0, in bfloat16."""
        return {
            name: torch.zeros_like(slot.master, dtype=torch.bfloat16)
            for name in MOMENTS
        }

    def load(self, slot: Slot, rows: slice) -> tuple[Tensor, Tensor]:
        """Both moments of some rows."""
        mean, square = (_rows(slot.state[name])[rows].float() for name in MOMENTS)
        return mean, square

    def store(
        self, slot: Slot, rows: slice, mean: Tensor, square: Tensor, skip: Tensor
    ) -> None:
        """Round both moments; what bfloat16 holds already is not changed."""
        first = _first(slot) + rows.start * mean.shape[1]
        bits = random_bits(slot.name, self.steps[0], first, mean.numel())
        bits = bits.view(mean.shape)
        for name, value, random in (
            ("exp_avg", mean, bits),
            ("exp_avg_sq", square, bits >> 16),
        ):
            _rows(slot.state[name])[rows].copy_(rounded(value, random))

    def step_fused(
        self, slot: Slot, gradient: Tensor, scalars: StepScalars, rates: Rates
    ) -> None:
        """As `SmallMoments.step_fused`, with the same random bits."""
        from lumina.ops.small_adamw.fused import adamw_bf16_

        adamw_bf16_(
            slot.master,
            gradient,
            slot.state["exp_avg"],
            slot.state["exp_avg_sq"],
            local(slot.parameter.data),
            scalars,
            rates,
            steps=self.steps[0],
            name=name_key(slot.name),
            first=_first(slot),
        )


def _first(slot: Slot) -> int:
    """The place of a slot's first element in the whole parameter."""
    whole = slot.parameter
    begin: int = rows_here(whole).start
    return begin * (whole.numel() // max(1, whole.shape[0]))


def _rows(tensor: Tensor) -> Tensor:
    return tensor.view(-1, tensor.shape[-1])
