"""Mixture of Depths: blocks that only some tokens go through."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import DISTINCT, Trial

register(
    Feature(
        name="mixture_of_depths",
        option="use_mod",
        summary="blocks that only a share of the tokens of each row goes through",
        without="--no-use-mod",
        change_cost="restart",
        requested=lambda c: c.mod.use_mod,
        of_shape=lambda spec: spec.mod is not None,
        lacks={
            "attention_statistics": "chooses the tokens that its layers attend to",
            "cache_window": "there is none for Mixture of Depths (use_mod)",
            "decoding_floor": "tokens pass layers by",
            "paged_cache": "tokens pass layers by (use_mod)",
            "rate_transfer": "no rule is known for its routers",
        },
        trial=Trial(
            {"use_mod": True},
            beside=DISTINCT,
            keeps=False,
            # Static routing chooses no tokens, and writes no metrics of them.
            calls=("lumina.model.depth:DepthBlock.forward",),
        ),
    )
)
