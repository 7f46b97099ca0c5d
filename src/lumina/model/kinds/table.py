"""The table of kinds, in the order in which their losses add up."""

from __future__ import annotations

from lumina.errors import LuminaError
from lumina.features import FEATURES, shape_lacks
from lumina.features.abilities import check_abilities
from lumina.model.kinds.adapters import ADAPTED
from lumina.model.kinds.kind import Kind, Term
from lumina.model.kinds.mod import Depths
from lumina.model.kinds.moe import Experts
from lumina.model.kinds.mor import Recursions
from lumina.model.kinds.parts import Parts
from lumina.model.kinds.puzzle import PuzzleReasoner
from lumina.model.kinds.style import Styled
from lumina.model.kinds.tasks import Tasks
from lumina.model.kinds.thinking import TextReasoner
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Shape

KINDS: list[Kind] = [
    Experts(),
    Depths(),
    Recursions(),
    Tasks(),
    Parts(),
    Styled(),
    PuzzleReasoner(),
    TextReasoner(),
]


def register_kind(kind: Kind) -> None:
    """Add a kind of model behind Lumina's own; a file that runs again replaces its own.

    Args:
        kind: an instance with a name of its own; its `applies` says which shapes are
            of this kind.

    Raises:
        LuminaError: E005 for what is no kind, for a name that is taken, and where
            `lacks` names an ability that Lumina does not know.
    """
    if not isinstance(kind, Kind) or not kind.name.isidentifier():
        raise LuminaError(
            "E005",
            f"{kind!r} is not a kind of model",
            "derive a class from lumina.model.kinds.kind.Kind, set its name, and "
            "register an instance",
        )
    check_abilities(kind.name, kind.lacks, FEATURES)
    for place, other in enumerate(KINDS):
        if other.name != kind.name:
            continue
        if type(other).__qualname__ != type(kind).__qualname__:
            raise LuminaError(
                "E005",
                f"{kind.name!r} already names a kind of model",
                "choose another name",
            )
        KINDS[place] = kind
        return
    KINDS.append(kind)


def kinds_of(spec: ModelSpec) -> tuple[Kind, ...]:
    """The kinds that a model is of. Adapters stand on what all others declare."""
    return tuple(kind for kind in (*KINDS, ADAPTED) if kind.applies(spec))


def why_not(spec: ModelSpec, ability: str) -> str | None:
    """Why a model cannot do something, as a kind that it is of says; None: it can.

    What not every kind of model can do asks this, and refuses with the reason.

    Args:
        spec: the model's shape.
        ability: a name of `lumina.features.abilities.ABILITIES`, or of a feature.
    """
    found = shape_lacks(spec, ability)
    found += [one.lacks[ability] for one in kinds_of(spec) if ability in one.lacks]
    return found[0] if found else None


def words(spec: ModelSpec) -> list[str]:
    """What sets a model apart from a plain transformer, in phrases."""
    return [text for kind in kinds_of(spec) for text in kind.words(spec)]


def kind_names(spec: ModelSpec) -> tuple[str, ...]:
    """Names of the kinds that a model is of; none: it is a plain transformer."""
    return tuple(kind.name for kind in kinds_of(spec) if kind.title)


def titles() -> dict[str, str]:
    """Field of a shape that holds a kind's settings -> what reports call the kind."""
    return {kind.name: kind.title for kind in KINDS if kind.title}


def loss_terms(spec: ModelSpec) -> tuple[Term, ...]:
    """The further losses of a model."""
    return tuple(term for kind in kinds_of(spec) for term in kind.terms(spec))


def count_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Keys of `LossSums.aux` that only count, with their shapes, in order."""
    shapes: dict[str, Shape] = {}
    for kind in kinds_of(spec):
        shapes |= kind.counts(spec)
    return shapes
