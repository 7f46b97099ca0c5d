"""Long rows in chunks."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature, Machine
from lumina.features.table import register
from lumina.features.trial import Trial

_KEYS_ONLY = "a chunk hands on what layers keep, and this model has more to hand on"
_WHOLE = "weights are gathered for whole forward passes"


PIECE_KEYS = 16_384
"""As `KEYS` of `lumina.ops.attention.pieces`, which needs torch."""


def _active(plan: Any) -> bool:
    return bool(0 < plan.chunk_size < plan.spec.seq_length)


def _handed_on(spec: Any, layout: Any) -> int:
    """Bytes of all keys and values of the rows, and of their float32 gradients."""
    width = spec.num_kv_heads * (spec.head_dim + spec.value_dim)
    if spec.mla_kv_rank:
        width = spec.mla_kv_rank + spec.mla_rope_dim
    element = 4 if layout.compute_dtype == "float32" else 2
    tokens = layout.micro_batch_size * spec.seq_length
    return int(spec.num_layers * tokens * width * (element + 4))


def _pieces(spec: Any, layout: Any) -> int:
    """Bytes of a piece of keys and values on CUDA: read, and on their way back.

    A copy of both where they lie in host memory, their gradients, a gradient for each
    head of queries before those of a group are added, and float32 sums.
    """
    if layout.device != "cuda" or layout.compute_dtype == "float32":
        return 0
    heads = 2 * 4 * spec.num_kv_heads + 2 * spec.num_heads
    keys = min(PIECE_KEYS, spec.seq_length)
    return int(2 * layout.micro_batch_size * keys * heads * spec.head_dim)


def _on_the_host(machine: Machine) -> str | None:
    if machine.device == "cuda":
        return None
    return "keeps keys in host memory, where this device has them in any case"


register(
    Feature(
        name="chunked_training",
        option="use_chunked_training",
        summary="long rows chunk by chunk, with the gradient of the whole row",
        without="--no-use-chunked-training",
        change_cost="restart",
        plan_field="chunk_size",
        requested=lambda c: c.long_rows.use_chunked_training,
        active=_active,
        memory=lambda spec, layout: {
            "activations": _handed_on(spec, layout),
            "working": _pieces(spec, layout),
        },
        excludes=(
            Exclusion("mixture_of_depths", _KEYS_ONLY),
            Exclusion("mixture_of_recursions", _KEYS_ONLY),
            Exclusion("hierarchical_reasoning", _KEYS_ONLY),
            Exclusion("registered_backbone", _KEYS_ONLY),
            Exclusion(
                "moe_capacity",
                "places of experts are shared out among the tokens of a whole row",
                "use --moe-dispatch dropless",
            ),
            Exclusion(
                "preserve_base_outputs", "the base model's scores are those of rows"
            ),
            Exclusion("qk_clip", "the largest scores are looked for in whole rows"),
            Exclusion(
                "compile",
                "each chunk attends to another number of keys",
                "use --no-compile",
            ),
            Exclusion(
                "optimizer_in_backward",
                "the gradients of several chunks add up before a weight changes",
            ),
            Exclusion("fsdp2", _WHOLE),
            Exclusion("zero2", _WHOLE),
        ),
        trial=Trial(
            {"use_chunked_training": True, "chunk_size": 16},
            recomputes=("attention_norm",),
            redraws=True,
        ),
    )
)
register(
    Feature(
        name="chunk_offload",
        option="chunk_offload",
        summary="keys and values of the chunks lie in host memory",
        without="--no-chunk-offload",
        change_cost="restart",
        requested=lambda c: bool(c.long_rows.chunk_offload),
        refused=lambda c: c.long_rows.chunk_offload is False,
        active=lambda p: p.chunk_offload and _active(p),
        needs=_on_the_host,
        memory=lambda spec, layout: {"activations": -_handed_on(spec, layout)},
        excludes=(
            Exclusion(
                "latent_attention",
                "keys are made of all latents at once, which are on the device then",
                "leave chunk_offload out",
            ),
        ),
        # The reference is not in chunks: its attention is of whole rows.
        trial=Trial(
            {"chunk_offload": True, "use_chunked_training": True, "chunk_size": 16},
            recomputes=("attention_norm",),
            redraws=True,
        ),
    )
)
