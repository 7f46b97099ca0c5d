"""The table of kinds, in the order in which their losses add up."""

from __future__ import annotations

from lumina.model.kinds.kind import Kind, Shape, Term
from lumina.model.kinds.mod import Depths
from lumina.model.kinds.moe import Experts
from lumina.model.kinds.mor import Recursions
from lumina.model.kinds.parts import Parts
from lumina.model.kinds.puzzle import PuzzleReasoner
from lumina.model.kinds.tasks import Tasks
from lumina.model.kinds.thinking import TextReasoner
from lumina.model.spec import ModelSpec

KINDS: tuple[Kind, ...] = (
    Experts(),
    Depths(),
    Recursions(),
    Tasks(),
    Parts(),
    PuzzleReasoner(),
    TextReasoner(),
)


def kinds_of(spec: ModelSpec) -> tuple[Kind, ...]:
    """The kinds that a model is of."""
    return tuple(kind for kind in KINDS if kind.applies(spec))


def words(spec: ModelSpec) -> list[str]:
    """What sets a model apart from a plain transformer, in phrases."""
    return [text for kind in kinds_of(spec) for text in kind.words(spec)]


def loss_terms(spec: ModelSpec) -> tuple[Term, ...]:
    """The further losses of a model."""
    return tuple(term for kind in kinds_of(spec) for term in kind.terms(spec))


def count_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Keys of `LossSums.aux` that only count, with their shapes, in order."""
    shapes: dict[str, Shape] = {}
    for kind in kinds_of(spec):
        shapes |= kind.counts(spec)
    return shapes
