"""How large the gradient of each group of tensors is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lumina.train.watch import Look, register_look


@register_look
class GradientGroups(Look):
    """The norm of the gradient of all tensors of a role, before it is clipped.

    It is made of the norms that the gate takes of every gradient anyway, so that no
    gradient is read again. Tables that are read row by row do not count.
    """

    name = "gradient_groups"
    captures: ClassVar[bool] = True
    _found: Tensor | None = None

    def judged(self, scale: Tensor) -> None:
        """Note the squares of the step, and whose they are."""
        if self.squares is None:
            return
        there = self.program.optimizer.with_gradients()
        self._roles = [self.program.info_of(slot.name).role for slot in there]
        found = self.squares / scale.square()
        self._found = self.program.parts.add(found, there)

    def values(self) -> Tensor | None:
        """[n]: of each gradient; None in a step without labels, which has none."""
        return self._found

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """Keys group.ROLE.gradient_norm."""
        if not values:
            return {}
        squares: dict[str, float] = defaultdict(float)
        for role, square in zip(self._roles, values, strict=True):
            squares[role] += square
        return {
            f"group.{role}.gradient_norm": squares[role] ** 0.5
            for role in sorted(squares)
        }
