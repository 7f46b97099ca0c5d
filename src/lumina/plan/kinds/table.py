"""The table of kinds, in the order in which they resolve."""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.kinds.hrm import Reasoner
from lumina.plan.kinds.kind import Planned
from lumina.plan.kinds.mod import Depths
from lumina.plan.kinds.moe import Experts
from lumina.plan.kinds.mor import Recursions
from lumina.plan.kinds.parts import Parts
from lumina.plan.kinds.style import Styled
from lumina.plan.kinds.tasks import Tasks

PLANNED: tuple[Planned, ...] = (
    Reasoner(),
    Tasks(),
    Experts(),
    Parts(),
    Styled(),
    Depths(),
    Recursions(),
)

LIVE_OPTIONS = frozenset(leaf for kind in PLANNED for leaf in kind.live)
"""Options of kinds of model that change no tensor."""

SHAPELESS_OPTIONS = tuple(leaf for kind in PLANNED for leaf in kind.shapeless)
"""Options of kinds of model that other weights may get."""


def planned_for(spec: ModelSpec) -> list[Planned]:
    """The kinds that a shape is of."""
    return [kind for kind in PLANNED if getattr(spec, kind.field) is not None]
