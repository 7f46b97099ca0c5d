"""SwiGLU's product and its gradient, spelled out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up.

    Args:
        gate_up: [..., 2M], the gate in the first half.

    Returns:
        [..., M].
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def swiglu_backward(gate_up: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of `gate_up` [..., 2M] from that of the product [..., M]."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    share = torch.sigmoid(gate)
    of_gate = gradient.float() * up * share * (1 + gate * (1 - share))
    of_up = gradient.float() * gate * share
    return torch.cat([of_gate, of_up], dim=-1).to(gate_up.dtype)
