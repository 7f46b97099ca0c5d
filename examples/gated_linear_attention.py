"""A recurrent language model in Lumina's own terms, without changing Lumina.

Gated linear attention (Yang et al., 2023, arXiv:2312.06635) keeps one matrix a head in
place of a cache of keys and values: S <- diag(a) S + k v', read by o = q S. Its state
is the *carry*: `backbone(batch, carry)` returns what the next segment needs, so a text
may be learned segment by segment and continued token by token in constant memory.

    python examples/gated_linear_attention.py FILE [--steps 200]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina.model.interface import Batch, Output
from lumina.model.layers import Embedding, FeedForward, Linear, RMSNorm
from lumina.model.network import Network
from lumina.model.spec import ModelSpec


class GatedLinearAttention(nn.Module):
    """The recurrence, written as one: exact and slow (real kernels work in chunks)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads = spec.num_heads
        self.qkvg = Linear(spec.hidden_size, 4 * spec.hidden_size)
        self.out = Linear(spec.hidden_size, spec.hidden_size)

    def forward(self, x_bsd: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] and the state [B, H, hd, hd] to the same."""
        parts = self.qkvg(x_bsd).unflatten(-1, (4, self.heads, -1))
        q, k, v, gate = parts.unbind(2)
        decay = torch.sigmoid(gate + 4.0)
        seen = []
        for t in range(x_bsd.shape[1]):
            kept = decay[:, t, :, :, None] * state
            state = kept + k[:, t, :, :, None] * v[:, t, :, None, :]
            seen.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
        return self.out(torch.stack(seen, 1).flatten(2)), state


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.attention = GatedLinearAttention(spec)
        self.feedforward_norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.feedforward = FeedForward(spec)

    def forward(self, x_bsd: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output and its new state."""
        mixed, state = self.attention(self.attention_norm(x_bsd), state)
        x_bsd = x_bsd + mixed
        return x_bsd + self.feedforward(self.feedforward_norm(x_bsd)), state


class GatedLinearBackbone(nn.Module):
    """What a backbone is to Lumina: a batch and a carry to an `Output`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.compute_dtype = torch.float32
        self.embedding = Embedding(spec.padded_vocab_size, spec.hidden_size)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)

    def forward(
        self, batch: Batch, carry: list[Tensor] | None = None, cache: Any = None
    ) -> Output:
        """Hidden states, and every layer's state, cut from the graph."""
        x_bsd = self.embedding(batch.input_ids).to(self.compute_dtype)
        head = self.spec.hidden_size // self.spec.num_heads
        shape = (len(x_bsd), self.spec.num_heads, head, head)
        states = carry or [x_bsd.new_zeros(shape) for _ in self.blocks]
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            x_bsd, state = block(x_bsd, state)
            after.append(state.detach())
        return Output(self.norm(x_bsd), carry=after)


class GatedLinearNetwork(Network):
    """Lumina's network, head and chunked loss included, around another backbone."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.backbone = GatedLinearBackbone(spec)

    @torch.no_grad()
    def continue_text(self, ids: list[int], count: int) -> list[int]:
        """Greedy continuation; after the prompt one token at a time, with the state."""
        output = self.backbone(Batch.from_rows(torch.tensor([ids])))
        for _ in range(count):
            scores = self.objective.logits(output.hidden[:, -1:])
            ids = [*ids, int(scores.argmax())]
            batch = Batch.from_rows(torch.tensor([ids[-1:]]))
            output = self.backbone(batch, output.carry)
        return ids


def make_network(seed: int = 0) -> GatedLinearNetwork:
    """A small one, of bytes."""
    spec = ModelSpec(
        vocab_size=256,
        padded_vocab_size=256,
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        head_dim=32,
        intermediate_size=128,
        seq_length=32,
        init_std=0.05,
    )
    return GatedLinearNetwork(spec).initialise(seed)  # type: ignore[return-value]


def train(network: GatedLinearNetwork, text: bytes, steps: int) -> list[float]:
    """Learn a text in eight strands, segment after segment; the carry goes along."""
    length = network.spec.seq_length
    strands = torch.tensor(list(text)).long()
    strands = strands[: len(text) // 8 * 8].view(8, -1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    segments = (strands.shape[1] - 1) // length
    losses, carry = [], None
    for step in range(steps):
        first = step % segments * length
        if first == 0:
            carry = None
        ids = strands[:, first : first + length]
        labels = strands[:, first + 1 : first + length + 1]
        sums, _ = network(Batch.from_rows(ids, labels), carry)
        carry = sums.carry
        loss = sums.loss_sum / sums.weight_sum
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train on a file and continue a text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    network = make_network()
    losses = train(network, args.file.read_bytes(), args.steps)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} nats a byte")
    print(bytes(network.continue_text(list(b"The "), 60)).decode(errors="replace"))


if __name__ == "__main__":
    main()
