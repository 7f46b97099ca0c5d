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
        slots = self.program.optimizer.slots
        there = [slot.name for slot in slots if slot.gradient() is not None]
        self._roles = [self.program.info_of(name).role for name in there]
        self._found = self.squares / scale.square()
        if self.program.divided:
            self.program.mesh.tokens.sum_(self._found)

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
