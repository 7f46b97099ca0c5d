"""What both kinds of hierarchical reasoner are made of.

Wang et al., 2025, arXiv:2506.21734; its one-network variant is Jolicoeur-Martineau,
2025, arXiv:2510.04871. Two states are refined in turns, z_L by the low-level module
and, more rarely, z_H by the high-level one. A *segment* is one round of such updates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.attention import Attention
from lumina.model.context import BlockContext
from lumina.model.layers import FeedForward
from lumina.model.spec import HrmSpec, ModelSpec


class Update(NamedTuple):
    """One update of a segment.

    Attributes:
        low: of z_L; else of z_H.
        learns: whether gradient flows through it, as through the last ones only.
    """

    low: bool
    learns: bool


def updates(hrm: HrmSpec) -> tuple[Update, ...]:
    """The updates of a segment, in order."""
    order = ("l" * hrm.l_cycles + "h") * hrm.h_cycles
    kept = 2 if hrm.variant == "hrm" else hrm.l_cycles + 1
    first = len(order) - kept
    return tuple(Update(one == "l", i >= first) for i, one in enumerate(order))


class ReasoningBlock(nn.Module):
    """Attention and SwiGLU, each normalised after its residual."""

    routed = False

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.eps = spec.norm_eps
        self.attention = Attention(spec, layer_index)
        self.feedforward = FeedForward(spec)

    def forward(self, x_bpd: Tensor, context: BlockContext) -> Tensor:
        """[B, P, D] to the same."""
        x_bpd = self.normal(x_bpd + self.attention(x_bpd, context))
        return self.normal(x_bpd + self.feedforward(x_bpd))

    def normal(self, x_bpd: Tensor) -> Tensor:
        """RMSNorm without a weight."""
        return F.rms_norm(x_bpd, (x_bpd.shape[-1],), None, self.eps)


class HaltingHead(nn.Module):
    """Two logits, in float32: halting now is right, and going on is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, width))
        self.bias = nn.Parameter(torch.empty(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] to two of [...] float32."""
        q = F.linear(x.float(), self.weight.float(), self.bias.float())
        return q[..., 0], q[..., 1]
