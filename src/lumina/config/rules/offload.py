"""What lives beside the device: what does nothing without it."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of offloading without effect, and why."""
    if settings.offload.optimizer_states_in == "disk":
        return {}
    return {"offload_folder": "nothing lives on disk"}


RULE = Rule(without_effect=without_effect)
"""Options of where the tensors of a run live."""
