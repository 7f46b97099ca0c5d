"""How many experts a token goes through when a trained model answers."""

from __future__ import annotations

from dataclasses import replace

from lumina.errors import LuminaError
from lumina.model.moe import routed_layers
from lumina.model.network import Network


def set_experts_per_token(network: Network, count: int) -> None:
    """Let every token go through this many experts of each routed layer.

    The router is as it was trained; its scores are weighed anew where the model does
    so. Fewer experts answer faster and otherwise than the trained number.

    Args:
        network: of a mixture of experts; changed in place.
        count: from 1 to the number of experts.

    Raises:
        LuminaError: E002 for a model without experts; E005 for another count.
    """
    moe = network.spec.moe
    if moe is None:
        raise LuminaError(
            "E002",
            "--experts-per-token: the model has no experts",
            "leave it out",
        )
    if not 1 <= count <= moe.num_experts:
        raise LuminaError(
            "E005",
            f"experts-per-token is {count}",
            f"give 1 to {moe.num_experts}, the experts of a layer",
        )
    network.spec = replace(network.spec, moe=replace(moe, top_k=count))
    for layer in routed_layers(network):
        layer.spec = replace(layer.spec, top_k=count)
