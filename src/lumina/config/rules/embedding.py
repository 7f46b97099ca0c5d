"""Token vectors and positions: which options do not go together or do nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse a width that sines and cosines do not fit.

    Raises:
        LuminaError: E002.
    """
    model, kind = settings.model, settings.model.pos_encodings
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
