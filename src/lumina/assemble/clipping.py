"""Which attention layers of a network QK-clip scales."""

from __future__ import annotations

import torch

from lumina.errors import LuminaError
from lumina.model.attention import Attention
from lumina.model.network import Network
from lumina.optim.logit_clip import ClippedAttention
from lumina.optim.optimizer import Slot


def clipped_layers(
    network: Network, slots: list[Slot], device: torch.device
) -> list[ClippedAttention]:
    """The attention layers of a network, each noting its largest logits from now on.

    Args:
        network: with its weights.
        slots: what trains.
        device: where the network is.

    Raises:
        LuminaError: E002 where the projections of a layer do not train.
    """
    by_name = {slot.name: slot for slot in slots}
    layers = []
    for name, module in network.named_modules():
        if not isinstance(module, Attention):
            continue
        names = [f"{name}.qkv.{part}" for part, _ in module.qkv.named_parameters()]
        if missing := [n for n in names if n not in by_name]:
            raise LuminaError(
                "E002",
                f"qk_clip scales queries and keys, and {missing[0]} does not train",
                "leave qk_clip out, or train the attention",
            )
        heads, groups, _ = module.heads
        largest = torch.full((heads,), -torch.inf, device=device)
        module.largest_logits = largest
        layers.append(
            ClippedAttention(
                [by_name[n] for n in names], heads, groups, module.head_dim, largest
            )
        )
    return layers
