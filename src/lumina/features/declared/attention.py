"""Kinds of attention, and what is done to queries and keys."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

SCORES_BYTES = 3 * 2**25
"""Scores of some queries, the mask over them, and what masks them."""

_OWN_NORMS = "latent attention has norms of its own and no biases"

register(
    Feature(
        name="sliding_window",
        option="window_size",
        summary="attention looks back a fixed number of tokens",
        without="--window-size 0",
        change_cost="restart",
        requested=lambda c: c.model.window_size > 0,
        active=lambda p: p.spec.window_size > 0,
        trial=Trial({"window_size": 16}, keeps=False),
    )
)
register(
    Feature(
        name="qk_norm",
        option="qk_norm",
        summary="normalise queries and keys before their product",
        without="--qk-norm none",
        change_cost="restart",
        requested=lambda c: c.model.qk_norm != "none",
        active=lambda p: p.spec.qk_norm != "none",
        trial=Trial({"qk_norm": "rms"}, keeps=False, tensors=("q_norm.weight",)),
    )
)
register(
    Feature(
        name="attention_bias",
        option="attention_bias",
        summary="biases on queries, keys and values",
        without="--no-attention-bias",
        change_cost="restart",
        requested=lambda c: c.model.attention_bias,
        active=lambda p: p.spec.attention_bias,
        trial=Trial({"attention_bias": True}, keeps=False, tensors=("qkv.bias",)),
    )
)
register(
    Feature(
        name="latent_attention",
        option="mla_kv_rank",
        summary="keys and values from one narrow latent, as DeepSeek-V2",
        without="--mla-kv-rank 0",
        change_cost="restart",
        requested=lambda c: c.model.mla_kv_rank > 0,
        active=lambda p: p.spec.mla_kv_rank > 0,
        excludes=(
            Exclusion("qk_norm", _OWN_NORMS, "leave qk_norm out"),
            Exclusion("attention_bias", _OWN_NORMS, "leave attention_bias out"),
            Exclusion(
                "other_positions",
                "latent attention keeps channels of its own for rotation",
            ),
        ),
        trial=Trial(
            {"mla_kv_rank": 16, "mla_rope_dim": 8, "num_kv_heads": 2},
            keeps=False,
            tensors=("kv_down.weight",),
        ),
    )
)
register(
    Feature(
        name="qk_clip",
        option="qk_clip",
        summary="scale queries and keys down where attention logits grow too large",
        without="--qk-clip 0",
        change_cost="restart",
        requested=lambda c: c.train.qk_clip > 0,
        active=lambda p: p.qk_clip > 0,
        memory=lambda spec, layout: {"working": SCORES_BYTES},
        excludes=(
            Exclusion(
                "qk_norm",
                "normalised queries and keys bound the logits",
                "leave one of qk_norm and qk_clip out",
            ),
            Exclusion(
                "shared_keys",
                "queries of a later pass meet keys that another layer's weights made",
                "use --no-mor-kv-sharing, or leave qk_clip out",
            ),
            Exclusion("hierarchical_reasoning", "a reasoner has no such thing"),
        ),
        trial=Trial({"qk_clip": 0.05}, keeps=False, columns=("clipped_heads",)),
    )
)
