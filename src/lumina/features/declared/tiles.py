"""Feed-forwards that work on a tile of tokens at a time."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial


def _active(plan: Any) -> bool:
    """Only where a forward has more tokens than a tile."""
    tokens = plan.micro_batch_size * plan.spec.seq_length
    return bool(0 < plan.feedforward_tile < tokens)


register(
    Feature(
        name="tiled_feedforward",
        option="feedforward_tile",
        summary="feed-forwards and experts take a tile of tokens at a time, and their "
        "inner values are computed again in backward",
        without="--feedforward-tile 0",
        requested=lambda c: c.activations.feedforward_tile > 0,
        refused=lambda c: c.activations.feedforward_tile == 0,
        active=_active,
        fallback=lambda p, m: p.replace(feedforward_tile=0),
        claim="exact",
        excludes=(
            Exclusion("compile", "a compiled block computes its feed-forward whole"),
            Exclusion(
                "moe_capacity",
                "the places of an expert are shared by all tokens of a forward",
            ),
            Exclusion("registered_feedforward", "it may look at several tokens"),
            Exclusion("registered_block", "its feed-forward is not known"),
            Exclusion("registered_backbone", "its feed-forwards are not known"),
        ),
        build="lumina.assemble.tiling:tile",
        trial=Trial({"feedforward_tile": 16}, calls=("lumina.ops.tiled:tiled",)),
    )
)
