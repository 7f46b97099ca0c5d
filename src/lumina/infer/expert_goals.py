"""Goals at the time of answering: routing leans towards the experts linked to them."""

from __future__ import annotations

from collections.abc import Collection

import torch

from lumina.errors import LuminaError
from lumina.model.moe import routed_layers
from lumina.model.network import Network
from lumina.plan.kinds.moe import GOAL_BIAS
from lumina.state.expert_registry import Registry


@torch.no_grad()
def lean_towards(
    network: Network,
    goals: Collection[str],
    registry: Registry,
    strength: float = GOAL_BIAS,
) -> list[str]:
    """Add `strength` to the router's logits of experts that serve one of the goals.

    Args:
        network: with named experts; changed until it is loaded anew.
        goals: texts, as the registry has them.
        registry: which experts serve which goals.
        strength: how much; 0 undoes it.

    Returns:
        The names of the experts concerned.

    Raises:
        LuminaError: E005 for an unknown goal, or that no expert of the model serves.
    """
    linked = registry.goals()
    for goal in goals:
        if goal not in linked:
            raise LuminaError(
                "E005",
                f"no expert is linked to the goal {goal!r}",
                f"goals are: {'; '.join(linked) or 'none yet'}",
            )
    moe = network.spec.moe
    here = moe.names if moe is not None else ()
    names = [name for name in here if any(name in linked[goal] for goal in goals)]
    if not names or moe is None:
        raise LuminaError(
            "E005",
            "no expert of this model serves the goal: " + "; ".join(goals),
            f"named experts here: {', '.join(here) or 'none'}; `lumina experts attach`",
        )
    first = moe.num_experts - len(here)
    for layer in routed_layers(network):
        for name in names:
            layer.routing_bias[first + here.index(name)] = strength
    return names
