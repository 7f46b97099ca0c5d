"""Which rank holds which experts: decided as a Program is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumina.model.moe import MoeFeedForward
from lumina.ops.moe.placement import balanced

if TYPE_CHECKING:
    from lumina.assemble.program import Program

BALANCED = "balanced"
"""Of `Plan.expert_placement_policy`: by usage."""


def place_experts(program: Program, read: Callable[[str], Tensor] | None) -> None:
    """Give each rank its experts of every layer, before weights have their values.

    By usage, that of the step before the State was taken; a fresh model has none, and
    its experts stand in their order, as they do without that policy.

    Args:
        program: whose `row_order` gets the expert of each row of their matrices.
        read: logical name -> tensor of the State; None: the model is fresh.
    """
    if read is None or program.plan.expert_placement_policy != BALANCED:
        return
    for name, layer in program.network.named_modules():
        if not isinstance(layer, MoeFeedForward) or layer.parted is None:
            continue
        shares = read(f"{name}.load").tolist()
        order = balanced(shares, layer.parted.peers.size)
        if order == sorted(order):
            continue
        held = torch.tensor(order, device=program.device)
        layer.parted = replace(layer.parted, slots=held.argsort(), held=held)
        for leaf in ("gate_up", "down"):
            program.row_order[f"{name}.{leaf}"] = held
