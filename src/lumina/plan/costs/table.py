"""The table of costs; where several kinds change a block, the first one decides."""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.costs.cost import Cost
from lumina.plan.costs.hrm import PuzzleReasoner, TextReasoner
from lumina.plan.costs.mod import Depths
from lumina.plan.costs.moe import Experts
from lumina.plan.costs.mor import Recursions
from lumina.plan.costs.parts import Parts
from lumina.plan.costs.style import Styled
from lumina.plan.costs.tasks import Tasks

COSTS: tuple[Cost, ...] = (
    PuzzleReasoner(),
    TextReasoner(),
    Parts(),
    Depths(),
    Experts(),
    Recursions(),
    Tasks(),
    Styled(),
)


def costs_of(spec: ModelSpec) -> tuple[Cost, ...]:
    """The costs of the kinds that a model is of."""
    return tuple(cost for cost in COSTS if cost.applies(spec))
