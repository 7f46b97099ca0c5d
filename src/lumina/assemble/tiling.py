"""What looks at each token alone, for a tile of tokens at a time.

These are feed-forwards and experts, and in plain blocks also the norms, and what makes
queries, keys and values of tokens. What is inside is computed again backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from lumina.assemble.tiled_attention import TiledAttention
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
            groups = plan.attention_head_groups
            tiles = TiledAttention(module, module.attention, size, groups)
            module.attend = tiles.attend  # type: ignore[method-assign]
    for layer in routed_layers(network):
        layer.experts = partial(_experts, layer, size)


Modules = Sequence[nn.Module]
Fed = tuple[Tensor, dict[str, Tensor]]
"""What a block gives: its vectors, and sums of routed layers."""


def _weights(owners: Modules) -> list[Tensor]:
    """Their parameters, which are others once a network has left the meta device."""
    return [parameter for owner in owners for parameter in owner.parameters()]


def _rows(
    whole: Callable[[Tensor], Tensor],
    owners: Modules,
    size: int,
    x: Tensor,
    overwrite: bool = False,
) -> Tensor:
    """[..., D] to [..., D]: a function of each vector, in tiles."""

    def run(x_td: Tensor, *_: Tensor) -> Tensor:
        return whole(x_td)

    flat = x.reshape(-1, x.shape[-1])
    y_td = tiled(run, [flat], _weights(owners), size, overwrite)
    return y_td.view(*x.shape[:-1], y_td.shape[-1])


def _tile_feed(block: Block, size: int) -> None:
    """The norm and the feed-forward of a block in one tile, and the addition, too.

    Then the gradient of what the block's attention gave can take its place: but for the
    tile, nothing of the block has need of it.
    """
    norm, feedforward = block.feedforward_norm, block.feedforward
    owners = norm, feedforward

    def feed(x_bsd: Tensor, context: BlockContext) -> Fed:
        y_bsd = _rows(lambda x: feedforward(norm(x)), owners, size, x_bsd)
        return block._drop(y_bsd), {}

    def add_feed(x_bsd: Tensor, context: BlockContext) -> Fed:
        return _rows(lambda x: x + feedforward(norm(x)), owners, size, x_bsd, True), {}

    block.feed = feed  # type: ignore[method-assign]
    if not block.dropout:  # dropout draws for all tokens at once
        block.add_feed = add_feed  # type: ignore[method-assign]


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
