"""The numbers of a step that the host knows and its device work reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches


class Numbers(NamedTuple):
    """Numbers of the host, or tensors that hold them.

    Attributes:
        divisor: what makes a mean of the sum of the losses.
        inverse: whether `divisor` is its inverse, to multiply by.
        shares: of each further loss, the factor that makes its sum a mean.
        task_loss_tokens: where there are several tasks, those of each.
    """

    divisor: float | Tensor
    inverse: bool
    shares: Sequence[float | Tensor]
    task_loss_tokens: tuple[float, ...] = ()

    @staticmethod
    def of(program: Program, batches: StepBatches) -> Numbers:
        """Those of a step."""
        shares = [
            term.per_token(batches.tokens, batches.loss_tokens)
            for term in program.terms
        ]
        return Numbers(
            batches.loss_divisor, False, shares, tuple(batches.task_loss_tokens)
        )

    def mean(self, total: Tensor) -> Tensor:
        """A sum over tokens as a share of the step's mean."""
        if self.inverse:
            return total * self.divisor
        return total / self.divisor


class Told:
    """A vector in a fixed place of the device, written by the host before each step.

    Args:
        shares: how many further losses there are.
        figures: how many numbers go into the metrics as they are.
        device: where it lives.
    """

    def __init__(self, shares: int, figures: int, device: torch.device) -> None:
        self._shares = shares
        self._vector = torch.zeros(1 + shares + figures, device=device)
        # CUDA divides by a number of the host by multiplying with its inverse in
        # float32; a recorded step does the same, so that both agree to the bit.
        self._inverse = device.type == "cuda"

    def write(self, numbers: Numbers, figures: Sequence[float]) -> None:
        """Write the numbers of the step that is launched next.

        Args:
            numbers: of the host.
            figures: in their order.
        """
        divisor = np.float32(numbers.divisor)
        first = float(np.float32(1) / divisor) if self._inverse else float(divisor)
        values: list[Any] = [first, *numbers.shares, *figures]
        pinned = self._vector.device.type == "cuda"
        said = torch.tensor(values, dtype=torch.float32, pin_memory=pinned)
        self._vector.copy_(said, non_blocking=True)

    def numbers(self) -> Numbers:
        """The same numbers as tensors."""
        shares = list(self._vector[1 : 1 + self._shares].unbind())
        return Numbers(self._vector[0], self._inverse, shares)

    @property
    def figures(self) -> Tensor:
        """The figures."""
        return self._vector[1 + self._shares :]
