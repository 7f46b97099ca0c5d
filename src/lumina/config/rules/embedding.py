"""Token vectors and positions: which options do not go together or do nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings

EMBEDDING_OPTIONS = ("pos_encodings", "scale_embeddings", "use_stable_embedding")
"""What is done with token vectors before the first block."""


def check(settings: Settings) -> None:
    """Refuse options of the embedding that contradict each other.

    Raises:
        LuminaError: E002.
    """
    model, kind = settings.model, settings.model.pos_encodings
    if model.scale_embeddings and model.use_stable_embedding:
        refuse(
            "scale_embeddings and use_stable_embedding do not go together: one "
            "multiplies token vectors, the other brings them to length sqrt(hidden "
            "size) whatever they are",
            "leave one of the two out",
        )
    if settings.parts.backbone not in (None, "standard"):
        for leaf in EMBEDDING_OPTIONS:
            if settings.get(leaf) not in (False, "rope"):
                refuse(
                    f"backbone {settings.parts.backbone} and {leaf} do not go "
                    "together: a registered backbone embeds tokens itself",
                    f"leave {leaf} out, or backbone",
                )
    if kind == "rope":
        return
    if model.rope_scaling != "none":
        refuse(
            f"rope_scaling {model.rope_scaling} and pos_encodings {kind} do not go "
            "together: nothing is rotated",
            "leave one of the two out",
        )
    if model.mla_kv_rank:
        refuse(
            f"mla_kv_rank {model.mla_kv_rank} and pos_encodings {kind} do not go "
            "together: latent attention keeps channels of its own for rotation",
            "leave one of the two out",
        )
    if kind == "sinusoidal" and model.hidden_size % 2:
        refuse(
            f"pos_encodings sinusoidal and hidden_size {model.hidden_size} do not go "
            "together: sines and cosines come in pairs",
            f"use --hidden-size {model.hidden_size + 1}",
        )


def advice(settings: Settings) -> list[str]:
    """Advice on unusual values."""
    model = settings.model
    normed = model.scale_embeddings or model.use_stable_embedding
    if model.pos_encodings != "sinusoidal" or normed or model.init_std > 0.2:
        return []
    return [
        f"pos_encodings sinusoidal with init_std {model.init_std:g}: sines are about "
        f"{0.7 / model.init_std:.0f} times as large as token vectors at first; "
        "--scale-embeddings evens that out, as in the paper"
    ]


def without_effect(settings: Settings) -> dict[str, str]:
    """Options without effect, and why."""
    kind = settings.model.pos_encodings
    return {} if kind == "rope" else {"rope_theta": f"pos_encodings is {kind}"}


RULE = Rule(check=check, advice=advice, without_effect=without_effect)
