"""What looks at each token alone, for a tile of tokens at a time.

These are feed-forwards and experts, and in plain blocks also the norms, and what makes
queries, keys and values of tokens. What is inside is computed again backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from lumina.model.attention import Attention
from lumina.model.block import Block
from lumina.model.context import BlockContext
from lumina.model.layers import FeedForward
from lumina.model.moe import MoeFeedForward, routed_layers
from lumina.model.network import Network
from lumina.ops.low_bits.product import Weight
from lumina.ops.moe import grouped
from lumina.ops.tiled import tiled
from lumina.plan.plan import Plan


def tile(network: Network, plan: Plan) -> None:
    """What the feature of tiles does to a network (`Feature.build`)."""
    size = plan.feedforward_tile
    for module in network.modules():
        if isinstance(module, FeedForward):
            whole = partial(_rows, module.forward, (module,), size)
            module.forward = whole  # type: ignore[method-assign]
        if isinstance(module, Block) and not module.routed:
            _tile_feed(module, size)
        if isinstance(module, Block) and isinstance(module.attention, Attention):
            _tile_projections(module, module.attention, size)
    for layer in routed_layers(network):
        layer.experts = partial(_experts, layer, size)


Modules = Sequence[nn.Module]


def _weights(owners: Modules) -> list[Tensor]:
    """Their parameters, which are others once a network has left the meta device."""
    return [parameter for owner in owners for parameter in owner.parameters()]


def _rows(
    whole: Callable[[Tensor], Tensor], owners: Modules, size: int, x: Tensor
) -> Tensor:
    """[..., D] to [..., D]: a function of each vector, in tiles."""

    def run(x_td: Tensor, *_: Tensor) -> Tensor:
        return whole(x_td)

    y_td = tiled(run, [x.reshape(-1, x.shape[-1])], _weights(owners), size)
    return y_td.view(*x.shape[:-1], y_td.shape[-1])


def _tile_feed(block: Block, size: int) -> None:
    """The norm and the feed-forward of a block in one tile."""
    norm, feedforward = block.feedforward_norm, block.feedforward

    def fed(x_bsd: Tensor, context: BlockContext) -> tuple[Tensor, dict[str, Tensor]]:
        y_bsd = _rows(lambda x: feedforward(norm(x)), (norm, feedforward), size, x_bsd)
        return block._drop(y_bsd), {}

    block.feed = fed  # type: ignore[method-assign]


def _tile_projections(block: Block, attention: Attention, size: int) -> None:
    """Norm, projection and rotation of a block's attention in one tile.

    Then neither the norm's result nor unrotated queries and keys are kept.
    """
    norm, project, attend = block.attention_norm, attention.project, block.attend
    head_norms = [
        one for one in (attention.q_norm, attention.k_norm) if one is not None
    ]
    owners = norm, attention.qkv, *head_norms
    width = sum(attention.heads) * attention.head_dim

    def projected(
        x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, length, _ = x_bsd.shape
        # Angles may be the same for all rows.
        angles = [
            one.expand(rows, length, *one.shape[2:]).flatten(0, 1)
            for one in (context.cos, context.sin)
        ]

        def run(x_td: Tensor, cos: Tensor, sin: Tensor, *_: Tensor) -> Tensor:
            own = replace(context, cos=cos.unsqueeze(0), sin=sin.unsqueeze(0))
            return torch.cat(
                [one.flatten(2) for one in project(norm(x_td.unsqueeze(0)), own)], -1
            ).squeeze(0)

        rows_td = x_bsd.flatten(0, 1)
        flat = tiled(run, [rows_td, *angles], _weights(owners), size)
        heads = flat.view(rows, length, -1, attention.head_dim)
        assert flat.shape[-1] == width
        query, key, value = heads.split(attention.heads, dim=2)
        return query, key, value

    def attended(x_bsd: Tensor, context: BlockContext) -> Tensor:
        if context.keys is not None:  # queries alone, of a pass whose keys are shared
            return attend(x_bsd, context)
        attention.project = projected  # type: ignore[method-assign]
        try:
            return block._drop(attention(x_bsd, context))
        finally:
            del attention.project

    block.attend = attended  # type: ignore[method-assign]


def _experts(
    layer: MoeFeedForward,
    size: int,
    x_td: Tensor,
    gate_up: Weight,
    down: Weight,
    ids_tk: Tensor,
    scores_tk: Tensor,
    through: grouped.Through,
) -> Tensor:
    """As `grouped.routed_experts`."""
    given = [one for one in (gate_up, down) if isinstance(one, Tensor)]
    others = [] if layer.adapters is None else list(layer.adapters.parameters())

    def run(x: Tensor, ids: Tensor, scores: Tensor, *weights: Tensor) -> Tensor:
        found = iter(weights)
        first, second = (
            next(found) if isinstance(one, Tensor) else one for one in (gate_up, down)
        )
        return grouped.routed_experts(x, first, second, ids, scores, through)

    return tiled(run, [x_td, ids_tk, scores_tk], [*given, *others], size)
