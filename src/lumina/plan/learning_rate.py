"""The peak learning rate, lowered where it was meant for a model without experts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lumina.model.spec import ModelSpec
from lumina.plan.decisions import source_of

if TYPE_CHECKING:
    from lumina.config import Config

LOWEST = 0.5
"""The most a rate is lowered: attention and embeddings still see every token."""


def learning_rate(config: Config, spec: ModelSpec) -> tuple[float, str]:
    """(peak rate, why).

    An expert sees k of E tokens, so its gradients are as noisy as those of a batch
    smaller by k / E; for Adam the rate then goes with the root of it (Malladi et al.,
    2022, arXiv:2205.10287). Somebody's own rate stands, and so does that of a preset
    with experts, which was chosen for them.
    """
    rate, why = config.train.learning_rate, source_of(config, "learning_rate")
    moe = spec.moe
    if moe is None or not config.train.auto_adjust_lr or _meant(config):
        return rate, why
    factor = max(LOWEST, math.sqrt(moe.top_k / moe.num_experts))
    return rate * factor, (
        f"{factor:.2g} of {rate:g} ({why}): an expert sees {moe.top_k} of "
        f"{moe.num_experts} tokens; --no-auto-adjust-lr keeps it"
    )


def _meant(config: Config) -> bool:
    """Whether the rate was chosen for this model."""
    kind = config.provenance["learning_rate"].kind
    if kind != "preset":
        return kind != "default"
    from lumina.config.presets import find_preset

    assert config.preset is not None
    return bool(find_preset(config.preset).values.get("use_moe"))
