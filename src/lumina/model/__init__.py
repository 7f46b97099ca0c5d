"""Single-device modules: the shape of a model, its layers, the whole network."""

from __future__ import annotations

from typing import Any

__all__ = ["build_model"]


def __getattr__(name: str) -> Any:
    """Import torch only when a network is asked for; `model.spec` needs none."""
    if name == "build_model":
        from lumina.model.network import build_model

        return build_model
    raise AttributeError(f"module 'lumina.model' has no attribute {name!r}")
