"""Static routing where there is nothing to route; kinds say what it excludes."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.sections import SECTIONS
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Static routing of a model that routes nothing."""
    routed = any(
        getattr(getattr(settings, name), section.routes_by)
        for name, section in SECTIONS.items()
        if section.routes_by
    )
    return {} if routed else {"static_routing_mode": "the model routes no token"}


RULE = Rule(without_effect=without_effect)
