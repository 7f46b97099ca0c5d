"""The peak learning rate, lowered where it was meant for a model of another kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.model.spec import ModelSpec
from lumina.plan.decisions import source_of
from lumina.plan.kinds.kind import Planned
from lumina.plan.kinds.table import planned_for

if TYPE_CHECKING:
    from lumina.config import Config


def learning_rate(config: Config, spec: ModelSpec) -> tuple[float, str]:
    """(peak rate, why).

    A kind of model may say a factor on rates that were meant for a model without it.
    Somebody's own rate stands, and so does that of a preset of this kind, which was
    chosen for it.
    """
    rate, why = config.train.learning_rate, source_of(config, "learning_rate")
    if not config.train.auto_adjust_lr:
        return rate, why
    for kind in planned_for(spec):
        found = kind.rate(spec)
        if found is not None and not _meant(config, kind):
            factor, reason = found
            return rate * factor, (
                f"{factor:.2g} of {rate:g} ({why}): {reason}; --no-auto-adjust-lr "
                "keeps it"
            )
    return rate, why


def _meant(config: Config, kind: Planned) -> bool:
    """Whether the rate was chosen for this model."""
    source = config.provenance["learning_rate"].kind
    if source != "preset":
        return source != "default"
    from lumina.config.presets import find_preset

    assert config.preset is not None
    return bool(find_preset(config.preset).values.get(kind.switch))
