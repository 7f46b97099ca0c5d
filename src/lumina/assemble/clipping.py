"""Which attention layers of a network QK-clip scales."""

from __future__ import annotations

import torch

from lumina.errors import LuminaError
from lumina.model.attention import Attention
from lumina.model.latent_attention import LatentAttention
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
        LuminaError: E002 where there is no such layer, or where the projections of one
            do not train.
    """
    by_name = {slot.name: slot for slot in slots}
    layers = []
    for path, module in network.named_modules():
        if not isinstance(module, (Attention, LatentAttention)):
            continue
        heads = network.spec.num_heads
        module.largest_logits = torch.full((heads,), -torch.inf, device=device)
        names = module.rows_of_logits(torch.ones(heads))
        missing = [name for name in names if f"{path}.{name}" not in by_name]
        if missing:
            raise LuminaError(
                "E002",
                f"qk_clip scales queries and keys, and {path}.{missing[0]} does not "
                "train",
                "leave qk_clip out, or train the attention",
            )
        layers.append(
            ClippedAttention(
                {name: by_name[f"{path}.{name}"] for name in names},
                module.rows_of_logits,
                module.largest_logits,
            )
        )
    if not layers:
        raise LuminaError(
            "E002",
            "qk_clip reads the logits of Lumina's attention, and this model has none",
            "leave --qk-clip out, or use attention that is not a registered part",
        )
    return layers
