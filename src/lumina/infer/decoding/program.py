"""The network of a step in few kernels, for models whose blocks are plain.

A layer is six kernels (`lumina.ops.one_token`) instead of some thirty: the norm before
a product, the gate after it and the residual are part of the product. The weights are
the network's own; nothing is copied.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumina.batch import Batch
from lumina.infer.decoding.product_ways import (
    APART,
    FUSED,
    LIBRARY,
    Operations,
    Product,
    Products,
    by_measurement,
    measure,
    microseconds,
    operations,
)
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.settings import place_of
from lumina.infer.kv.static_cache import StaticCache
from lumina.model.attention import Attention
from lumina.model.block import Block
from lumina.model.layers import FeedForward, Linear, RMSNorm
from lumina.model.moe import MoeFeedForward
from lumina.model.network import Network
from lumina.model.objective.language_model import LanguageModelObjective
from lumina.model.transformer import Transformer
from lumina.ops.moe import few
from lumina.ops.norm.fused import rms_norm
from lumina.ops.one_token import reference
from lumina.ops.one_token.reference import HeadNorms, Heads, Places
from lumina.ops.rotary.reference import tables
from lumina.ops.triton_there import has_triton

if TYPE_CHECKING:
    from collections.abc import Callable

FixedCache = StaticCache | PagedSeats
"""Caches over which a step has fixed shapes."""

MOST_ROWS = 64
"""With more rows a product is no longer the reading of its weights."""

KINDS = (torch.bfloat16, torch.float16)
"""Types of weights that the kernels take on a GPU."""


def why_not(network: Network, cache: Any, rows: int) -> str:
    """Why a network takes no such program; "" where it does.

    Args:
        network: on its device, with all that is attached.
        cache: of the answers.
        rows: side by side.
    """
    if why := why_not_kernels(network, rows) or why_not_plain(network):
        return why
    from lumina.ops.one_token.attention import fits

    block: Any = network.backbone.blocks[0]
    attention = block.attention
    if not fits(_heads(attention)):
        return f"its kernels do not take heads of {attention.head_dim}"
    if not isinstance(cache, FixedCache) or not cache.plainly_kept:
        return "keys and values are kept in another format or place"
    return ""


def why_not_kernels(network: Network, rows: int) -> str:
    """Why its device, its type or the rows take no such kernels; "" where they do."""
    place = next(network.parameters())
    if place.device.type != "cuda" or not has_triton():
        return "its kernels need CUDA and Triton"
    if place.dtype not in KINDS:
        return f"its kernels do not take {str(place.dtype).removeprefix('torch.')}"
    if rows > MOST_ROWS:
        return f"it is for {MOST_ROWS} rows at most"
    return ""


def why_not_plain(network: Network) -> str:
    """Why the blocks of a network are not those computed here; "" where they are."""
    backbone, objective = network.backbone, network.objective
    if type(backbone) is not Transformer or backbone.recursion is not None:
        return "its tokens do not go once through plain blocks"
    if backbone.around or type(objective) is not LanguageModelObjective:
        return "something is added to its blocks or its head"
    if objective.head is not None and _why_not_linear(objective.head):
        return _why_not_linear(objective.head)
    for block in backbone.blocks:
        if type(block) is not Block:
            return f"its blocks are {type(block).__name__}"
        if why := _why_not_attention(block.attention) or _why_not_fed(block):
            return why
    return ""


def _why_not_attention(attention: Any) -> str:
    if type(attention) is not Attention:
        return f"its attention is {type(attention).__name__}"
    norms = (attention.q_norm, attention.k_norm)
    if any(norm is not None and type(norm) is not RMSNorm for norm in norms):
        return f"its queries go through {type(attention.q_norm).__name__}"
    if not attention.rotary:
        return "its heads do not turn"
    return _why_not_linear(attention.qkv) or _why_not_linear(attention.out)


def _why_not_fed(block: Any) -> str:
    fed = block.feedforward
    if type(fed) is FeedForward:
        return _why_not_linear(fed.gate_up) or _why_not_linear(fed.down)
    if type(fed) is not MoeFeedForward:
        return f"its feed-forward is {type(fed).__name__}"
    if fed.stored or fed.adapters is not None or fed.rounding is not None:
        return "its experts are in few bits, or adapted"
    if fed.shared is not None:
        both = fed.shared.gate_up, fed.shared.down
        return _why_not_linear(both[0]) or _why_not_linear(both[1])
    return ""


def _why_not_linear(linear: Linear) -> str:
    if linear.stored is not None:
        return "its matrices are in few bits"
    if linear.adapters is not None or linear.product is not None:
        return "something is added to its matrices"
    return ""


def ways_of(rows: int, alone: bool) -> dict[str, Operations]:
    """The ways of a step's products on a GPU.

    Args:
        rows: side by side.
        alone: what a row gives must not depend on the others to the last bit: then
            tiles have one size, and the library, which may divide sums by the rows, has
            no part.
    """
    from lumina.ops.one_token import apart, library, products

    tile = products.ROWS
    while tile < rows and not alone:
        tile *= 2
    single = rows == 1 and not alone
    found = {
        FUSED: operations(products, rows=1 if single else tile),
        APART: operations(apart, rows=1 if single else tile),
    }
    return found if alone else found | {LIBRARY: operations(library)}


def _products_of(network: Network, rows: int, alone: bool) -> Products:
    ways = ways_of(rows, alone)
    if alone:  # a choice by the number of rows would let a row depend on the others
        return Products(ways, lambda product: FUSED)
    device = torch.cuda.get_device_name(place_of(network))
    return Products(ways, by_measurement(device, ways))


@torch.inference_mode()
def measured_products(network: Network, rows: int) -> dict[tuple[Product, str], float]:
    """Take the time of a network's products, by each way, once on this machine.

    Args:
        network: that `why_not` has nothing against; on a GPU.
        rows: side by side.

    Returns:
        Microseconds of every product and way; {} where the step has no such kernels.
    """
    place = place_of(network)
    if why_not_kernels(network, rows) or why_not_plain(network):
        return {}
    ways, name = ways_of(rows, alone=False), torch.cuda.get_device_name(place)
    return measure(network, rows, name, ways, microseconds)


def _heads(attention: Attention) -> Heads:
    queries, keys, _ = attention.heads
    return Heads(queries, keys, attention.head_dim)


class Program:
    """The logits of a step.

    Args:
        network: that `why_not` has nothing against.
        rows: side by side.
        ops: `lumina.ops.one_token.reference`, or None for the kernels.
        alone: what a row gives must not depend on the others to the last bit.
        products: the ways of its products; None: those of `ops`.

    Attributes:
        products: what computes its products.
    """

    def __init__(
        self,
        network: Network,
        rows: int,
        ops: ModuleType | None = None,
        alone: bool = False,
        products: Products | None = None,
    ) -> None:
        self._network = network
        self._alone = alone
        self._frequencies = network.backbone.frequencies(place_of(network))
        self._ops: Any = ops
        self._attend: Callable[..., Tensor] = reference.attend
        if ops is None:
            from lumina.ops.one_token import attention
            from lumina.ops.one_token import products as kernels

            self._ops, self._attend = kernels, attention.attend
            products = products or _products_of(network, rows, alone)
        self.products: Any = products or self._ops

    def logits(self, feed_b1: Tensor, cache: FixedCache) -> Tensor:
        """Scores of the next token, [B, vocabulary] float32.

        Args:
            feed_b1: [B, 1] int64, the coming token of each row.
            cache: of earlier tokens, in fixed shapes; receives the new ones.
        """
        network = self._network
        backbone, objective = network.backbone, network.objective
        position_b1 = cache.positions(feed_b1)
        x_bd = backbone._embed(self._batch(feed_b1, position_b1), cache)[:, 0]
        cos, sin = tables(position_b1, *self._frequencies)
        seen = cache.mask(position_b1)[:, 0, 0]
        slot_b = cache.new_slots[:, 0].contiguous()
        places = Places(
            cos[:, 0, 0].contiguous(),
            sin[:, 0, 0].contiguous(),
            slot_b,
            seen,
            cache.columns_read,
        )
        x_bd = x_bd.contiguous()
        for block in backbone.blocks:
            x_bd = self._attended(x_bd, block, places, cache)
            x_bd = self._fed(x_bd, block)
        matrix = objective.matrix(network._tied).to(x_bd.dtype)
        norm = backbone.norm
        scores_bv: Tensor = self.products.norm_linear(
            x_bd, norm.weight, norm.eps, matrix, out=torch.float32
        )
        return scores_bv[:, : network.spec.vocab_size]

    @staticmethod
    def _batch(feed_b1: Tensor, position_b1: Tensor) -> Batch:
        """What an embedding reads; nothing reads the rest, which costs no kernel."""
        return Batch(
            input_ids=feed_b1,
            labels=feed_b1,
            position_ids=position_b1,
            document_ids=feed_b1,
            cu_seqlens=feed_b1,
            max_seqlen=1,
            one_document_rows=True,
        )

    def _attended(
        self, x_bd: Tensor, block: Any, places: Places, cache: FixedCache
    ) -> Tensor:
        """The tokens after a block's attention."""
        attention, norm = block.attention, block.attention_norm
        qkv = attention.qkv
        held = cache.plain(attention.layer_index)
        assert held is not None, "prompts are read before the first step"
        qkv_bn = self.products.norm_linear(
            x_bd, norm.weight, norm.eps, _of(qkv, x_bd), qkv.bias
        )
        norms = None
        if attention.q_norm is not None:
            scales = attention.q_norm.weight, attention.k_norm.weight
            norms = HeadNorms(*scales, attention.q_norm.eps)
        seen = self._attend(qkv_bn, _heads(attention), norms, places, *held)
        return self.products.linear_add(seen, _of(attention.out, x_bd), x_bd)  # type: ignore[no-any-return]

    def _fed(self, x_bd: Tensor, block: Any) -> Tensor:
        """The tokens after a block's feed-forward."""
        norm, fed = block.feedforward_norm, block.feedforward
        if type(fed) is FeedForward:
            return self._gated(x_bd, norm, fed, x_bd)
        normal_bd = rms_norm(x_bd, norm.weight, norm.eps)
        ids, scores = self._routed(fed, normal_bd)
        gate_up, down = (m.to(x_bd.dtype) for m in (fed.gate_up, fed.down))
        if ids.numel() <= len(gate_up) or self._alone:
            hidden_bkm = self._ops.experts_swiglu(normal_bd, gate_up, ids)
            y_bd: Tensor = self._ops.experts_down_add(
                hidden_bkm, down, ids, scores, x_bd
            )
        else:  # nearly every expert is read: once, by all rows together
            chosen = few.routed_experts(normal_bd, gate_up, down, ids, scores)
            y_bd = x_bd + chosen
        if fed.shared is not None:
            y_bd = self._gated(x_bd, norm, fed.shared, y_bd)
        return y_bd

    def _routed(self, fed: MoeFeedForward, normal_bd: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen experts [B, k] and their weights, row by row where rows are alone."""
        parts = normal_bd.split(1 if self._alone else len(normal_bd))
        found = [fed.route(part) for part in parts]
        ids = torch.cat([one.ids_tk for one in found])
        return ids, torch.cat([one.scores_tk for one in found])

    def _gated(
        self, x_bd: Tensor, norm: RMSNorm, fed: FeedForward, residual_bd: Tensor
    ) -> Tensor:
        """What a feed-forward gives of normalised tokens, added to the residual."""
        hidden_bm = self.products.norm_swiglu(
            x_bd, norm.weight, norm.eps, _of(fed.gate_up, x_bd)
        )
        return self.products.linear_add(  # type: ignore[no-any-return]
            hidden_bm, _of(fed.down, x_bd), residual_bd
        )


def _of(linear: Linear, x: Tensor) -> Tensor:
    """A matrix in the type of what it multiplies."""
    weight: Tensor = linear.weight
    return weight.to(x.dtype)
