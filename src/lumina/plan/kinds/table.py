"""The table of kinds, in the order in which they resolve."""

from __future__ import annotations

from lumina.plan.kinds.hrm import Reasoner
from lumina.plan.kinds.kind import Planned
from lumina.plan.kinds.mod import Depths
from lumina.plan.kinds.moe import Experts
from lumina.plan.kinds.mor import Recursions
from lumina.plan.kinds.parts import Parts
from lumina.plan.kinds.tasks import Tasks

PLANNED: tuple[Planned, ...] = (
    Reasoner(),
    Tasks(),
    Experts(),
    Parts(),
    Depths(),
    Recursions(),
)
