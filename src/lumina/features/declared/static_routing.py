"""Routing whose shapes no token changes."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import Trial


def _active(plan: Any) -> bool:
    """Every router of depths and recursions lets every token through, softly."""
    chooses = [one for one in (plan.spec.mod, plan.spec.mor) if one is not None]
    return bool(chooses) and all(one.mode == "static" for one in chooses)


register(
    Feature(
        name="static_routing",
        option="static_routing_mode",
        summary="depths and recursions compute every token, softly weighted, so that "
        "no shape depends on the data",
        without="--no-static-routing-mode",
        change_cost="restart",
        requested=lambda c: c.routing.static_routing_mode,
        active=_active,
        trial=Trial(
            {"static_routing_mode": True}, beside={"use_mod": True}, keeps=False
        ),
    )
)
