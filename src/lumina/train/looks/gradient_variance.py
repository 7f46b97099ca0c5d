"""How far the elements of the gradient are spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumina.train.watch import Look, register_look


@register_look
class GradientVariance(Look):
    """The variance over all elements of the gradient, before it is clipped.

    Tables that are read row by row have no gradient of their size and do not count.
    """

    name = "gradient_variance"
    _found: Tensor | None = None

    def judged(self, scale: Tensor) -> None:
        """Sum and sum of squares of the elements, each [] float32."""
        program = self.program
        gradients = program.optimizer.gradients()
        norms, sums = [], []
        for one in gradients:  # one after the other, where they are on the host
            here = one.to(scale.device)
            norms.append(torch.linalg.vector_norm(here, dtype=torch.float32))
            sums.append(here.sum(dtype=torch.float32))
        both = torch.stack([torch.stack(sums), torch.stack(norms).square()])
        program.parts.add(both, program.optimizer.with_gradients())
        self._found = both.sum(1) / torch.stack([scale, scale.square()])

    def values(self) -> Tensor | None:
        """[2]: the two sums; None in a step without labels, which has no gradient."""
        return self._found

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """E[g^2] - E[g]^2."""
        if not values:
            return {"gradient_variance": None}
        count = sum(
            slot.parameter.numel()
            for slot in self.program.optimizer.slots
            if slot.touched is None
        )
        total, squares = values
        return {"gradient_variance": squares / count - (total / count) ** 2}
