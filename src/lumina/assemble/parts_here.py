"""What ranks find of their own parts of parameters, added up to that of whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumina.optim.sharded import is_sharded

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.optim.optimizer import Slot
    from lumina.parallel.mesh import RankGroup


class PartsHere:
    """Which ranks hold the parts of a Program's parameters.

    Where weights or states are divided, every parameter has a part on each rank, but
    for small ones that stay whole on all of them (`Messages.persistent`). Where experts
    are, theirs are divided over the ranks that share them, and everything else is on
    each of those. What several ranks have whole counts on the first of them only.

    Args:
        program: whose parameters they are.

    Attributes:
        over: the ranks whose figures add up; None where this rank has all of them.
    """

    def __init__(self, program: Program) -> None:
        mesh = program.mesh
        self.over: RankGroup | None = None
        self._once = False
        if program.divided:
            self.over = mesh.tokens
            small = program.way.place.messages.persistent
            self._once = small > 0 and mesh.tokens.rank > 0
        elif mesh.expert.size > 1:
            self.over = mesh.expert
            self._once = mesh.expert.rank > 0
        self._device = program.device
        self._masks: dict[tuple[str, ...], Tensor] = {}

    def count(self, slot: Slot) -> bool:
        """Whether what this rank has of a parameter is a part of the sum."""
        return not self._once or is_sharded(slot.parameter)

    def counted(self, slots: Sequence[Slot]) -> Tensor | None:
        """[n] float32, 1 for each slot that counts here; None where all of them do."""
        if not self._once:
            return None
        names = tuple(slot.name for slot in slots)
        if names not in self._masks:
            flags = [float(self.count(slot)) for slot in slots]
            self._masks[names] = torch.tensor(flags, device=self._device)
        return self._masks[names]

    def add(self, found: Tensor, slots: Sequence[Slot]) -> Tensor:
        """Figures of whole parameters, in place.

        Args:
            found: [..., n] sums over what this rank has of each slot's parameter.
            slots: those.
        """
        if self.over is None:
            return found
        counted = self.counted(slots)
        if counted is not None:
            found.mul_(counted)
        return self.over.sum_(found)
