"""The architectures that are compared: one width, one depth, one vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

WIDTH, LAYERS, SEQUENCE, MICRO_BATCH, VOCABULARY = 1024, 16, 2048, 16, 16384


def specs() -> dict[str, Any]:
    """Name -> ModelSpec; all share width, heads and vocabulary."""
    from lumina.model import spec as shapes

    dense = shapes.ModelSpec(
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=16,
        num_kv_heads=16,
        head_dim=64,
        intermediate_size=2816,
        seq_length=SEQUENCE,
        tie_embeddings=True,
    )
    odd = tuple(range(1, LAYERS, 2))
    even = tuple(range(0, LAYERS, 2))
    # Two experts of half the width: the same active parameters as dense.
    experts = shapes.MoeSpec(8, 2, 1408, tuple(range(LAYERS)))
    found = {
        "dense": dense,
        "MoE 8 experts, top-2": replace(dense, moe=experts),
        "MoD 12.5%": replace(dense, mod=shapes.ModSpec(odd, 0.125, (0.125,))),
        "MoD 50%": replace(dense, mod=shapes.ModSpec(odd, 0.5, (0.5,))),
        "hybrid: MoE + MoD 50%": replace(
            dense,
            moe=replace(experts, layers=even),
            mod=shapes.ModSpec(odd, 0.5, (0.5,)),
        ),
    }
    # As deep as dense for a token that takes every recursion, with fewer weights.
    return found | {
        f"MoR {n} recursions": replace(
            dense,
            num_layers=2 + round((LAYERS - 2) / n),
            mor=shapes.MorSpec(recursions=n),
        )
        for n in (2, 3)
    }
