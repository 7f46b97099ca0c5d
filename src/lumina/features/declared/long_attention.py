"""Attention for long rows: block by block, and more than a sliding window."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

SCORES_BYTES, COPIES = 2**26, 4
"""Of one pair of blocks, at most; scores, their weights, and both gradients."""

_CHOOSES = "blocks that choose their tokens attend by masks of their own"
_REASONS = "a reasoner has attention of its own"


def _blocks(spec: Any, layout: Any) -> dict[str, int]:
    """A pair of blocks, and a layer's gradients of keys and values in float32."""
    if layout.context_ranks > 1:
        spec = layout.forward_spec(spec)
    tokens = layout.micro_batch_size * spec.seq_length
    gradients = 4 * tokens * spec.num_kv_heads * (spec.head_dim + spec.value_dim)
    scores = 4 * tokens * spec.num_heads * spec.seq_length
    return {"working": COPIES * min(scores, SCORES_BYTES) + gradients}


register(
    Feature(
        name="attention_beyond_window",
        option="attention_sinks",
        summary="first tokens, or tokens at fixed distances, stay visible beyond the "
        "sliding window",
        without="--attention-sinks 0 and --attention-dilation 0",
        change_cost="restart",
        requested=lambda c: bool(c.model.attention_sinks or c.model.attention_dilation),
        active=lambda p: bool(p.spec.beyond_window),
        excludes=(
            Exclusion("mixture_of_depths", _CHOOSES),
            Exclusion("mixture_of_recursions", _CHOOSES),
            Exclusion("hierarchical_reasoning", _REASONS),
        ),
        trial=Trial({"attention_sinks": 2}, beside={"window_size": 16}, keeps=False),
    )
)
register(
    Feature(
        name="blockwise_attention",
        option="attention",
        summary="attention block by block, in memory that grows with the length",
        without="--attention auto",
        change_cost="restart",
        requested=lambda c: c.system.attention == "blockwise",
        refused=lambda c: c.system.attention not in ("auto", "blockwise"),
        active=lambda p: p.attention == "blockwise",
        fallback=lambda p, m: p.replace(attention="sdpa"),
        memory=_blocks,
        excludes=(
            Exclusion("mixture_of_depths", _CHOOSES),
            Exclusion("mixture_of_recursions", _CHOOSES),
            Exclusion("hierarchical_reasoning", _REASONS),
            Exclusion(
                "qk_clip",
                "the largest scores are looked for by a mask, and there is none",
                "use --attention sdpa, or leave qk_clip out",
            ),
        ),
        trial=Trial(
            {"attention": "blockwise"},
            calls=("lumina.ops.attention.blockwise:blockwise",),
        ),
    )
)
