"""AdamW whose moments are codes of a few bits with a scale for each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.optim.blocks import Code
from lumina.optim.declared import StateTensor
from lumina.optim.moments import MOMENTS
from lumina.optim.optimizer import Slot, local
from lumina.optim.small_moments import SmallMoments

if TYPE_CHECKING:
    from lumina.ops.small_adamw.fused import Rates, StepScalars

ROLES = ("matrix", "embedding", "head", "expert", "adapter")
"""Roles of the tensors that are in codes, where they are matrices: the bulk of what
trains. The others, and vectors beside adapters, are small, and AdamW's."""


def coded_states(codes: Mapping[str, Code]) -> dict[str, StateTensor]:
    """The declared states: codes and scales of each moment."""
    found = {}
    for name, code in codes.items():
        found[f"{name}_codes"] = StateTensor(
            shared=-1 if code.bits < 8 else None,
            shape_of=code.codes_shape,
            element=1,
            coded=True,
        )
        found[f"{name}_scales"] = StateTensor(
            shared=-1, shape_of=code.scales_shape, coded=True
        )
    return found


class CodedMoments(SmallMoments):
    """Moments in blocks within rows; a class names its `codes`, by moment."""

    codes: Mapping[str, Code]

    def first_states(self, slot: Slot) -> dict[str, Tensor]:
        """Moments of 0: all scales are."""
        if slot.parameter.ndim < 2:
            raise LuminaError(
                "E005",
                f"{slot.name} is a vector, and moments of a few bits are kept for "
                "matrices",
                f"give it to another optimizer: --optimizer-groups {slot.name}=adamw",
            )
        shape, master = tuple(slot.master.shape), slot.master
        state = {}
        for name, code in self.codes.items():
            code.tables(master.device)
            state[f"{name}_codes"] = torch.zeros(
                code.codes_shape(shape), dtype=torch.uint8, device=master.device
            )
            state[f"{name}_scales"] = master.new_zeros(code.scales_shape(shape))
        return state

    def load(self, slot: Slot, rows: slice) -> tuple[Tensor, Tensor]:
        """Both moments of some rows."""
        columns = slot.master.shape[-1]
        mean, square = (
            self.codes[name].decoded(*self._kept(slot, name, rows), columns)
            for name in MOMENTS
        )
        return mean, square

    def store(
        self, slot: Slot, rows: slice, mean: Tensor, square: Tensor, skip: Tensor
    ) -> None:
        """Encode both moments; codes of a skipped step stay, for they would change."""
        for name, value in (("exp_avg", mean), ("exp_avg_sq", square)):
            kept = self._kept(slot, name, rows)
            for old, new in zip(kept, self.codes[name].encoded(value), strict=True):
                old.copy_(torch.where(skip > 0, old, new))

    def _kept(self, slot: Slot, name: str, rows: slice) -> tuple[Tensor, Tensor]:
        """Codes and scales of some rows, to be written to."""
        codes, scales = slot.state[f"{name}_codes"], slot.state[f"{name}_scales"]
        return (
            codes.view(-1, codes.shape[-1])[rows],
            scales.view(-1, scales.shape[-1])[rows],
        )

    def step_fused(
        self, slot: Slot, gradient: Tensor, scalars: StepScalars, rates: Rates
    ) -> None:
        """As `SmallMoments.step_fused`, with the same codes."""
        from lumina.ops.small_adamw.fused import CodedMoment, adamw_coded_

        def moment(name: str) -> CodedMoment:
            return CodedMoment(
                slot.state[f"{name}_codes"],
                slot.state[f"{name}_scales"],
                *self.codes[name].tables(slot.master.device),
            )

        square = self.codes["exp_avg_sq"]
        adamw_coded_(
            slot.master,
            gradient,
            local(slot.parameter.data),
            moment("exp_avg"),
            moment("exp_avg_sq"),
            scalars,
            rates,
            bits=square.bits,
            never_zero=square.never_zero,
        )
