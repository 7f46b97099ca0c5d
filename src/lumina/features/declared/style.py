"""Blocks of GPT-2 and Phi-2."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

_OWN = "blocks of GPT-2 and Phi-2 are those of the family"

_NOT = (
    "mixture_of_experts", "mixture_of_depths", "mixture_of_recursions", "several_tasks",
    "hierarchical_reasoning", "latent_attention", "qk_norm", "qk_clip", "dropout",
    "stable_embedding", "scaled_embeddings", "fp8", "tiled_feedforward",
    "chunked_training", "gradient_checkpointing_selective",
    "gradient_checkpointing_budget", "gradient_checkpointing_except_attention",
    "gradient_checkpointing_attention", "gradient_checkpointing_feedforward",
)  # fmt: skip

register(
    Feature(
        name="block_style",
        option="block_style",
        summary="blocks of GPT-2 or Phi-2, for weights of these families",
        without="--block-style llama",
        change_cost="restart",
        requested=lambda c: c.model.block_style != "llama",
        active=lambda p: p.spec.style is not None,
        of_shape=lambda spec: spec.style is not None,
        lacks={
            "rate_transfer": "it has first values of its family",
            "base_outputs": "its head may add a bias to scores",
        },
        excludes=tuple(Exclusion(name, _OWN) for name in _NOT),
        trial=Trial(
            {"block_style": "gpt2", "pos_encodings": "learned", "tie_embeddings": True},
            keeps=False,
            tensors=("up.bias",),
        ),
    )
)
