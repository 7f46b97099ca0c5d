"""Small parts of a model, registered to be tried by `lumina matrix`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lumina
from lumina.batch import IGNORE, Batch
from lumina.model.attention import Attention
from lumina.model.context import BlockContext
from lumina.model.interface import LossSums, Output
from lumina.model.layers import Embedding, FeedForward, Linear, RMSNorm
from lumina.model.objective.language_model import LanguageModelObjective
from lumina.model.spec import ModelSpec


@lumina.register_feedforward(
    "tried_feedforward", tensors={"up.weight": ("matrix", ("ffn", "hidden"))}
)
class TriedFeedForward(nn.Module):
    """down(relu(up x)^2), So et al., 2021, arXiv:2109.08668."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.up = Linear(spec.hidden_size, spec.intermediate_size)
        self.down = Linear(spec.intermediate_size, spec.hidden_size)

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D]; it counts nothing."""
        return self.down(F.relu(self.up(x_bsd)) ** 2), {}


@lumina.register_attention("tried_attention")
class TriedAttention(Attention):
    """Lumina's own attention, halved."""

    def forward(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        whole: Tensor = super().forward(x_bsd, context)
        return 0.5 * whole


@lumina.register_block("tried_block")
class TriedBlock(nn.Module):
    """Attention and feed-forward side by side (Wang and Komatsuzaki, 2021, GPT-J)."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.attention = Attention(spec, layer_index)
        self.feedforward = FeedForward(spec)

    def forward(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        inner = self.norm(x_bsd)
        branches: Tensor = self.attention(inner, context) + self.feedforward(inner)
        return x_bsd + branches


@lumina.register_objective(
    "tried_objective", options={"weight": 1e-2}, reports={"tried_objective.z": "weight"}
)
class TriedObjective(LanguageModelObjective):
    """Cross entropy, and the squared normaliser beside it (arXiv:2204.02311)."""

    def forward(
        self, output: Output, batch: Batch, tied: Tensor | None = None
    ) -> LossSums:
        """The losses of a micro-batch."""
        losses = super().forward(output, batch, tied)
        z = self.logits(output.hidden, tied).logsumexp(-1) ** 2
        losses.terms["tried_objective.z"] = z[batch.labels != IGNORE].sum()
        return losses


@lumina.register_backbone("tried_backbone")
class TriedBackbone(nn.Module):
    """In each layer a token sees itself and the one before it in its document."""

    def __init__(self, spec: ModelSpec, attention: str) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
        self.embedding = Embedding(spec.padded_vocab_size, spec.hidden_size)
        self.blocks = nn.ModuleList(
            Linear(2 * spec.hidden_size, spec.hidden_size)
            for _ in range(spec.num_layers)
        )
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)

    def forward(self, batch: Batch, carry: Any = None, cache: Any = None) -> Output:
        """Hidden states [B, S, D] of a batch."""
        x = self.embedding(batch.input_ids).to(self.compute_dtype)
        starts = (batch.position_ids == 0)[..., None]
        for block in self.blocks:
            before = F.pad(x, (0, 0, 1, 0))[:, :-1].masked_fill(starts, 0.0)
            x = x + F.silu(block(torch.cat([x, before], -1)))
        return Output(self.norm(x))
