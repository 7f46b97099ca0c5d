"""A network as one graph of plain operations, for ONNX, TorchScript and torch.export.

What the graph computes is generation: dropless experts, keys and values of earlier
tokens as inputs, those of all tokens as outputs. Nothing in it depends on what tensors
hold, only on their shapes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.model.kinds.table import kinds_of
from lumina.model.moe import MoeFeedForward
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.ops.low_bits.product import as_tensor
from lumina.ops.moe.grouped import swiglu
from lumina.plan.kv_cache import vectors


def require_graph(spec: ModelSpec) -> None:
    """Refuse (E002) a model that has no graph of this kind, naming the option."""
    for kind in kinds_of(spec):
        if reason := kind.no_graph(spec):
            raise LuminaError(
                "E002",
                f"the model cannot be written as a graph: {reason}",
                "keep it as the run it is: lumina.load and `lumina generate` read it",
            )
    if spec.beyond_window:
        raise LuminaError(
            "E002",
            "the model cannot be written as a graph: its attention sees sinks or "
            "dilated tokens beyond its window",
            "keep it as the run it is: lumina.load and `lumina generate` read it",
        )


class Graph(nn.Module):
    """The function that an exported graph computes.

    Args:
        network: a dense or routed model; its routed layers are replaced.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        require_graph(network.spec)
        self.network = network.eval()
        for block in network.backbone.blocks:
            if isinstance(block.feedforward, MoeFeedForward):
                block.feedforward = EveryExpert(block.feedforward)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Scores of the next token after every new one.

        Args:
            input_ids: [B, S] int64, the new tokens.
            attention_mask: [B, P + S] int64, 0 for padding at the left of a row.
            position_ids: [B, S] int64; padding has 0.
            past: keys and values of the P earlier tokens, layer by layer, each
                [B, K, P, head_dim]; P is 0 at first.

        Returns:
            Logits [B, S, vocabulary] float32, then keys and values of all P + S tokens
            in the order of `past`.
        """
        network = self.network
        cache = GraphCache(past, attention_mask, network.spec.window_size)
        batch = replace(Batch.from_rows(input_ids), position_ids=position_ids)
        hidden = network.backbone(batch, cache=cache).hidden
        logits = network.objective.logits(hidden, network._tied)
        return logits, *cache.present


class GraphCache:
    """The cache of `lumina.model.cache_protocol.Cache`, as a function: past to present.

    Args:
        past: as in `Graph.forward`.
        attention_mask: [B, P + S] int64.
        window: 0, or the sliding window in tokens.
    """

    def __init__(self, past: list[Tensor], attention_mask: Tensor, window: int) -> None:
        self._past = past
        self._real = attention_mask
        self._window = window
        self.present: list[Tensor] = []

    def mask(self, position_ids: Tensor) -> Tensor:
        """Causal order, the window and padding, [B, 1, S, P + S] bool."""
        new, whole = position_ids.shape[1], self._real.shape[1]
        key_t = torch.arange(whole, device=position_ids.device)
        first_s1 = torch.arange(new, device=position_ids.device).unsqueeze(-1)
        query_s1 = first_s1 + (whole - new)
        seen = key_t <= query_s1
        if self._window:
            seen = seen & (query_s1 - key_t < self._window)
        real = (self._real > 0)[:, None, :]
        # A padding query sees itself: a row of nothing but -inf would be NaN.
        return ((seen & real) | (key_t == query_s1)).unsqueeze(1)

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Past and new keys and values of a layer, which are also what is returned."""
        keys = torch.cat([self._past[2 * layer_index], k], dim=2)
        values = torch.cat([self._past[2 * layer_index + 1], v], dim=2)
        self.present += [keys, values]
        return keys, values


class EveryExpert(nn.Module):
    """A routed layer that computes every expert of every token, most with weight zero.

    The same function without a tensor whose size depends on the routing, in two large
    products; it multiplies num_experts / top_k times as much.

    Args:
        routed: the layer to stand in for.
    """

    def __init__(self, routed: MoeFeedForward) -> None:
        super().__init__()
        self.routed = routed

    def forward(
        self, x_bsd: Tensor, valid_bs: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D]; there is nothing to report."""
        layer = self.routed
        x_td = x_bsd.flatten(0, 1)
        routing = layer.route(x_td)
        zeros_te = torch.zeros_like(routing.logits_te)
        weight_te = zeros_te.scatter(1, routing.ids_tk, routing.scores_tk)
        matrices = layer.matrices(x_td.dtype)
        gate_up, down = (as_tensor(one, x_td.dtype) for one in matrices)
        if layer.adapters is not None:
            gate_up = layer.adapters.changed(gate_up, layer, "gate_up")
            down = layer.adapters.changed(down, layer, "down")
        experts = gate_up.shape[0]
        both_tn = F.linear(x_td, gate_up.flatten(0, 1))
        hidden_tem = swiglu(both_tn.unflatten(-1, (experts, -1)))
        weighted_tem = hidden_tem * weight_te.unsqueeze(-1).to(x_td.dtype)
        y_td = F.linear(weighted_tem.flatten(1), down.transpose(0, 1).flatten(1))
        if layer.shared is not None:
            y_td = y_td + layer.shared(x_td)
        return y_td.unflatten(0, x_bsd.shape[:2]), {}


def past_shapes(spec: ModelSpec) -> list[tuple[str, int, int]]:
    """(name, heads, width) of what is kept of a token, layer by layer.

    Latent attention keeps its latent for keys, and the shared rotated key for values.
    """
    heads, key, value = vectors(spec)
    return [
        (f"{layer}.{kind}", heads, width)
        for layer in range(spec.num_layers)
        for kind, width in (("key", key), ("value", value))
    ]


def sample_inputs(
    spec: ModelSpec, rows: int, before: int, new: int
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Inputs of `Graph.forward` with random tokens and an invented past."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(spec.vocab_size, (rows, new), generator=generator)
    positions = torch.arange(before, before + new).expand(rows, new).contiguous()
    past = [
        torch.randn(rows, heads, before, width, generator=generator)
        for _, heads, width in past_shapes(spec)
    ]
    real = torch.ones(rows, before + new, dtype=torch.int64)
    return ids, real, positions, past
