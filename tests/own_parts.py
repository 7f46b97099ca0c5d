"""Somebody's own parts of a model, as a plug-in: one of every kind."""

from __future__ import annotations

from dataclasses import dataclass
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
    "relu_squared",
    options={"width": 64, "power": 2.0},
    reports={"relu_squared.active": 0.0},
    tensors={"up.weight": ("matrix", ("ffn", "hidden"))},
)
class ReluSquared(nn.Module):
    """down(relu(up x)^2), So et al., 2021, arXiv:2109.08668."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        chosen = spec.options_of("relu_squared")
        if chosen["width"] < 1:
            raise ValueError(f"width is {chosen['width']}: at least 1")
        self.power = chosen["power"]
        self.up = Linear(spec.hidden_size, chosen["width"])
        self.down = Linear(chosen["width"], spec.hidden_size)

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        up = F.relu(self.up(x_bsd))
        active = ((up > 0).float().mean(-1) * context.valid).sum()
        return self.down(up**self.power), {"relu_squared.active": active}


@lumina.register_block("parallel")
class ParallelBlock(nn.Module):
    """Attention and feed-forward side by side, as GPT-J, with a learned gate."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.attention = Attention(spec, layer_index)
        self.feedforward = FeedForward(spec)
        self.gate = nn.Parameter(torch.empty(2))
        self.register_buffer("floor", torch.empty(1))

    def forward(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        inner = self.norm(x_bsd)
        first, second = (self.gate + self.floor).to(x_bsd.dtype)
        branches = first * self.attention(inner, context)
        return x_bsd + branches + second * self.feedforward(inner)

    @staticmethod
    def initial(
        name: str, shape: tuple[int, ...], spec: ModelSpec, generator: torch.Generator
    ) -> Tensor | None:
        values = {"gate": 0.5, "floor": 0.25}
        return torch.full(shape, values[name]) if name in values else None

    @staticmethod
    def extra_flops(spec: ModelSpec) -> float:
        return 6.0 * spec.num_heads * spec.head_dim * spec.seq_length


@lumina.register_objective("focal", options={"gamma": 2.0})
class Focal(LanguageModelObjective):
    """(1 - p)^gamma of every token's loss, Lin et al., 2017, arXiv:1708.02002."""

    def __init__(self, spec: ModelSpec, loss_chunk_bytes: int) -> None:
        super().__init__(spec, loss_chunk_bytes)
        self.gamma = spec.options_of("focal")["gamma"]

    def forward(
        self, output: Output, batch: Batch, tied: Tensor | None = None
    ) -> LossSums:
        scores = self.logits(output.hidden, tied).flatten(0, 1)
        labels = batch.labels.flatten()
        loss = F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="none")
        focal = (1 - torch.exp(-loss)) ** self.gamma * loss
        counted = (labels != IGNORE).float().sum()
        return LossSums(loss.sum().detach(), counted, trained_sum=focal.sum())


@lumina.register_objective(
    "z_loss", options={"weight": 1e-2}, reports={"z_loss.z": "weight"}
)
class ZLoss(LanguageModelObjective):
    """Cross entropy, and the squared normaliser beside it (arXiv:2204.02311)."""

    def forward(
        self, output: Output, batch: Batch, tied: Tensor | None = None
    ) -> LossSums:
        losses = super().forward(output, batch, tied)
        z = self.logits(output.hidden, tied).logsumexp(-1) ** 2
        losses.terms["z_loss.z"] = z[batch.labels != IGNORE].sum()
        return losses


@dataclass
class Memory:
    """One vector a row, and how often it was written."""

    state: Tensor
    steps: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {"state": self.state, "steps": self.steps}

    def begin_anew(self, rows: Tensor) -> None:
        self.state = torch.where(rows.unsqueeze(-1), 0.0, self.state)
        self.steps = torch.where(rows, 0, self.steps)


@lumina.register_backbone("running_mean")
class RunningMean(nn.Module):
    """Every token sees the mean of its document so far, and a memory of the row."""

    recurrent = True

    def __init__(self, spec: ModelSpec, attention: str) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
        self.width = spec.hidden_size
        self.embedding = Embedding(spec.padded_vocab_size, spec.hidden_size)
        self.blocks = nn.ModuleList(
            Linear(2 * spec.hidden_size, spec.hidden_size)
            for _ in range(spec.num_layers)
        )
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)

    def carry_from(self, tensors: dict[str, Tensor]) -> Memory:
        return Memory(tensors["state"].to(self.compute_dtype), tensors["steps"])

    def forward(
        self, batch: Batch, carry: Memory | None = None, cache: Any = None
    ) -> Output:
        x = self.embedding(batch.input_ids).to(self.compute_dtype)
        rows = x.shape[0]
        if carry is None:
            zeros = x.new_zeros(rows, self.width)
            carry = Memory(zeros, torch.zeros(rows, dtype=torch.int32))
        x = x + 0.1 * carry.state[:, None]
        starts = batch.position_ids == 0
        for index, block in enumerate(self.blocks):
            held = {} if cache is None else cache.recall(index)
            total = held.get("total", x.new_zeros(rows, self.width))
            means = []
            for t in range(x.shape[1]):
                total = torch.where(starts[:, t, None], 0.0, total) + x[:, t]
                means.append(total / (batch.position_ids[:, t, None] + 1))
            if cache is not None:
                cache.remember(index, total=total)
            x = x + block(torch.cat([x, torch.stack(means, 1)], -1))
        after = Memory(0.9 * carry.state + x.detach().mean(1), carry.steps + 1)
        return Output(self.norm(x), carry=after if self.training else None)
