"""Gated linear attention as a plug-in: a file of one's own, Lumina unchanged.

Yang et al., 2023, arXiv:2312.06635. Each head keeps one matrix S of key by value
channels in place of a growing cache: S_t = diag(a_t) S_(t-1) + k_t v_t', read by
o_t = S_t' q_t. The decay a_t depends on the token. Training works through a row in
chunks, with products inside a chunk and one state between chunks; generation keeps S,
so a token costs the same however long the text is.

    lumina train --plugins examples/gated_linear_attention.py \\
        --attention-type gated_linear --train-data corpus/
    lumina generate RUN --plugins examples/gated_linear_attention.py --prompt "The "

`--attention-type gated_linear gated_linear gated_linear standard` makes every fourth
layer a usual attention. Options: `--part-options gated_linear.chunk=8`.

Shapes: b rows, s positions, h heads, k key channels, v value channels of a head,
n chunks, c positions of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lumina
from lumina.model.context import BlockContext
from lumina.model.layers import Linear, RMSNorm
from lumina.model.spec import ModelSpec

SLOWEST = -5.0
"""Smallest logarithm of a step's decay: less than 1% is left, as good as forgotten. It
keeps exponents inside a chunk within what float32 holds."""


@lumina.register_attention(
    "gated_linear",
    options={"chunk": 16, "gate_rank": 16, "gate_scale": 16.0},
    reports={"gated_linear.decay": 0.0},
)
class GatedLinearAttention(nn.Module):
    """Linear attention with a data-dependent decay for every key channel."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        chosen = spec.options_of("gated_linear")
        self.layer_index = layer_index
        self.heads, self.chunk = spec.num_heads, chosen["chunk"]
        if not 1 <= self.chunk <= 16:
            raise ValueError(f"chunk is {self.chunk}: exponents allow 1 to 16")
        if spec.hidden_size % (2 * self.heads):
            raise ValueError(f"{spec.hidden_size} channels do not make two per head")
        self.scale = chosen["gate_scale"]
        width, keys = spec.hidden_size, spec.hidden_size // 2
        self.q = Linear(width, keys)
        self.k = Linear(width, keys)
        self.v = Linear(width, width)
        self.decay_down = Linear(width, chosen["gate_rank"])
        self.decay_up = Linear(chosen["gate_rank"], keys, bias=True)
        self.gate = Linear(width, width)
        self.head_norm = RMSNorm(width // self.heads, spec.norm_eps)
        self.out = Linear(width, width)

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D]; a document knows nothing of those before it."""
        q_bshk, k_bshk, v_bshv = (
            one(x_bsd).unflatten(-1, (self.heads, -1)).float()
            for one in (self.q, self.k, self.v)
        )
        q_bshk = q_bshk * q_bshk.shape[-1] ** -0.5
        logits = self.decay_up(self.decay_down(x_bsd)).float()
        log_a = (F.logsigmoid(logits) / self.scale).clamp(min=SLOWEST)
        log_a = log_a.unflatten(-1, (self.heads, -1))
        assert context.starts is not None
        cache, state = context.cache, None
        if cache is not None:
            state = cache.recall(self.layer_index).get("state")
        o_bshv, state = chunked(
            q_bshk, k_bshk, v_bshv, log_a, context.starts, state, self.chunk
        )
        if cache is not None:
            cache.remember(self.layer_index, state=state)
        o_bshv = self.head_norm(o_bshv.to(x_bsd.dtype))
        y_bsd = self.out(o_bshv.flatten(2) * F.silu(self.gate(x_bsd)))
        kept = (log_a.detach().exp().mean((-1, -2)) * context.valid).sum()
        return y_bsd, {"gated_linear.decay": kept}

    @staticmethod
    def extra_flops(spec: ModelSpec) -> float:
        """Scores and their use inside a chunk; a state read and written per token."""
        keys, values, heads = spec.hidden_size // 2, spec.hidden_size, spec.num_heads
        chunk = spec.options_of("gated_linear")["chunk"]
        forward = 2 * chunk * (keys + values) + 4 * keys * values / heads
        return 3.0 * forward


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    starts: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, token by token; arguments and result as `chunked`."""
    if state is None:
        state = _no_state(k, v)
    seen = []
    for t in range(q.shape[1]):
        kept = torch.where(starts[:, t, None, None, None], 0.0, state)
        state = log_a[:, t].exp()[..., None] * kept
        state = state + k[:, t, :, :, None] * v[:, t, :, None, :]
        seen.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(seen, 1), state


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    starts: Tensor,
    state: Tensor | None = None,
    chunk: int = 16,
) -> tuple[Tensor, Tensor]:
    """The same in products over chunks.

    Inside a chunk the decay from j to t is exp(sum of log_a after j up to t), split
    between query and key at the chunk's first token, which no later token changes; of
    16 decays neither half leaves what float32 holds.

    Args:
        q: [B, S, H, K] float32, as `k` and `log_a` (at most 0, at least `SLOWEST`).
        v: [B, S, H, V].
        starts: [B, S] bool, where the state begins anew.
        state: [B, H, K, V] before the first token; None: nothing.
        chunk: positions of a chunk, at most 16.

    Returns:
        [B, S, H, V], and the state after the last token.
    """
    length = q.shape[1]
    short = -length % chunk
    if short:  # tokens that add nothing and forget nothing
        q, k, v, log_a = (F.pad(x, (0, 0, 0, 0, 0, short)) for x in (q, k, v, log_a))
        starts = F.pad(starts, (0, short))
    q, k, v, log_a = (x.unflatten(1, (-1, chunk)) for x in (q, k, v, log_a))
    document_bnc = starts.unflatten(1, (-1, chunk)).cumsum(-1)
    fallen = log_a.cumsum(2)
    first = fallen[:, :, :1]
    inside = torch.einsum(
        "bnthk,bnjhk->bnhtj", q * (fallen - first).exp(), k * (first - fallen).exp()
    )
    order = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    same = document_bnc[..., :, None] == document_bnc[..., None, :]
    inside = torch.where((order & same)[:, :, None], inside, 0.0)
    o = torch.einsum("bnhtj,bnjhv->bnthv", inside, v)

    # What of the state a token still sees, and what a chunk hands on.
    earlier = (document_bnc == 0)[..., None, None]
    last = (document_bnc == document_bnc[..., -1:])[..., None, None]
    q = torch.where(earlier, q * fallen.exp(), 0.0)
    end = fallen[:, :, -1:]
    k = torch.where(last, k * (end - fallen).exp(), 0.0)
    added = torch.einsum("bnchk,bnchv->bnhkv", k, v)
    left = torch.where(earlier[:, :, -1], end[:, :, 0].exp(), 0.0)
    if state is None:
        state = _no_state(k[:, 0], v[:, 0])
    before = []
    for n in range(q.shape[1]):
        before.append(state)
        state = left[:, n, ..., None] * state + added[:, n]
    o = o + torch.einsum("bnthk,bnhkv->bnthv", q, torch.stack(before, 1))
    return o.flatten(1, 2)[:, :length], state


def _no_state(k: Tensor, v: Tensor) -> Tensor:
    """[B, H, K, V] zeros."""
    shape: tuple[Any, ...] = (k.shape[0], *k.shape[2:], v.shape[-1])
    return k.new_zeros(shape)
