"""What a run asks for and a kind of model of a plug-in lacks.

Lumina's own kinds have options, and the configuration asks them. A kind of a plug-in is
known by the shape of the model alone, so it is asked when the shape is resolved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.features import FEATURES, named_option
from lumina.features.abilities import ABILITIES
from lumina.model.kinds.table import kinds_of
from lumina.model.spec import ModelSpec
from lumina.plan.apple import check_apple

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment


def check_abilities(config: Config, spec: ModelSpec, machine: Environment) -> None:
    """Refuse what is asked for by name and the model's kinds lack.

    Raises:
        LuminaError: E002, naming the option, the kind and the reason; E003 for what
            needs float64 on an Apple GPU.
    """
    check_apple(config, spec, machine)
    for kind in kinds_of(spec):
        for name, why in kind.lacks.items():
            asked = _asked(config, name)
            if asked:
                option = asked.partition(" ")[0]
                raise LuminaError(
                    "E002",
                    f"{asked} does not go with a {kind.name} model: {why}",
                    f"leave {option} out, or the plug-in that registers {kind.name}",
                )


def _asked(config: Config, name: str) -> str:
    """The words of a Config that ask for an ability or a feature; "": none do."""
    if name in ABILITIES:
        return ABILITIES[name].asked(config)
    feature = FEATURES[name]
    return named_option(feature, config) if feature.is_requested(config) else ""
