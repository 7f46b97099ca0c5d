"""Mixture of Recursions: blocks that some tokens go through again."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import DISTINCT, Trial

register(
    Feature(
        name="mixture_of_recursions",
        option="use_mor",
        summary="some tokens go through the middle blocks again",
        without="--no-use-mor",
        change_cost="restart",
        requested=lambda c: c.mor.use_mor,
        of_shape=lambda spec: spec.mor is not None,
        lacks={
            "attention_statistics": "chooses the tokens that its layers attend to",
            "cache_window": "there is none for Mixture of Recursions (use_mor)",
            "decoding_floor": "tokens go through layers again",
            "paged_cache": "tokens go to depths of their own (use_mor)",
            "rate_transfer": "no rule is known for its routers",
        },
        trial=Trial(
            {"use_mor": True},
            beside=DISTINCT,
            keeps=False,
            columns=("mor.mean_depth",),
        ),
    )
)
register(
    Feature(
        name="shared_keys",
        option="mor_kv_sharing",
        summary="later passes read the keys and values of the first",
        without="--no-mor-kv-sharing",
        change_cost="restart",
        requested=lambda c: c.mor.use_mor and c.mor.mor_kv_sharing,
        active=lambda p: p.spec.mor is not None and p.spec.mor.kv_sharing,
        excludes=(
            Exclusion(
                "mixture_of_depths",
                "a Mixture-of-Depths layer makes keys of some tokens only, and later "
                "passes would read those of other tokens",
            ),
        ),
        trial=Trial(
            {"mor_kv_sharing": True},
            beside={"use_mor": True, **DISTINCT},
            keeps=False,
        ),
    )
)
