"""Hierarchical reasoning, on text and on puzzles."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register

_NOT_IN_A_REASONER = (
    "mixture_of_experts", "mixture_of_depths", "mixture_of_recursions", "dropout",
    "sliding_window", "rope_scaling", "qk_norm", "attention_bias", "latent_attention",
    "other_positions", "scaled_embeddings", "stable_embedding",
)  # fmt: skip


def _puzzles(config: Any) -> bool:
    return bool(config.hrm.use_hrm and config.hrm.hrm_mode == "puzzle")


register(
    Feature(
        name="hierarchical_reasoning",
        option="use_hrm",
        summary="a recurrent reasoner that halts, in place of the transformer",
        without="--no-use-hrm",
        change_cost="restart",
        requested=lambda c: c.hrm.use_hrm,
        active=lambda p: p.spec.hrm is not None,
        excludes=tuple(
            Exclusion(name, "a reasoner has no such thing")
            for name in _NOT_IN_A_REASONER
        ),
    )
)
register(
    Feature(
        name="puzzles",
        option="hrm_mode",
        summary="a reasoner that solves puzzles, in place of one that writes text",
        without="--hrm-mode language_model",
        change_cost="restart",
        requested=_puzzles,
        active=lambda p: p.spec.solves_puzzles,
        excludes=(
            Exclusion(
                "tied_embeddings",
                "a model that solves puzzles has no such thing",
                "leave tie_embeddings out, or use --hrm-mode language_model",
            ),
        ),
    )
)
