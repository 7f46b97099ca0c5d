"""A kind of model whose attentions end in a low-rank pair and a scale of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lumina
from lumina.model.attention import Attention
from lumina.model.kinds.kind import Kind
from lumina.model.layers import Linear
from lumina.model.spec import ModelSpec
from lumina.model.tensors import ONES, ZEROS, Declared, Tensors, add, normal

RANK, BLOCK = 2, 8


class LowRank(Linear):
    """A matrix whose rows are scaled block by block, beside a narrow pair a, b."""

    block_scale: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.a = nn.Parameter(torch.empty(RANK, inputs))
        self.b = nn.Parameter(torch.empty(outputs, RANK))
        self.register_buffer("block_scale", torch.empty(outputs // BLOCK))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        y = super().forward(x) * self.block_scale.repeat_interleave(BLOCK).to(x.dtype)
        return y + F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))


class LowRankAttention(Attention):
    """An attention that ends in a `LowRank`."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__(spec, layer_index)
        self.out = LowRank(spec.num_heads * spec.head_dim, spec.hidden_size)


class LowRankPairs(Kind):
    """Every attention of a plain transformer has a pair and a scale."""

    name = "low_rank_pairs"

    def applies(self, spec: ModelSpec) -> bool:
        """Not to reasoners, to latent attention and to registered parts."""
        return spec.hrm is None and spec.parts is None and not spec.mla_kv_rank

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """The pair and the scale of each attention's last matrix."""
        for one in list(tensors.values()):
            if not one.name.endswith(".attention.out.weight"):
                continue
            path = one.name.removesuffix(".weight")
            (rows, columns), (outputs, inputs) = one.shape, one.axes
            pair = {
                "a": Declared(
                    f"{path}.a",
                    (RANK, columns),
                    "matrix",
                    ("rank", inputs),
                    normal(0.1),
                ),
                "b": Declared(
                    f"{path}.b", (rows, RANK), "matrix", (outputs, "rank"), ZEROS
                ),
            }
            scale = Declared(
                f"{path}.block_scale",
                (rows // BLOCK,),
                "buffer",
                ("block",),
                ONES,
                kind="buffer",
            )
            add(tensors, *pair.values(), scale)

    def attention(self, spec: ModelSpec, layer: int) -> nn.Module:
        """The attention of every layer."""
        return LowRankAttention(spec, layer)

    def after(self, running: Any, counted: Mapping[str, Tensor], skip: Tensor) -> None:
        """Scales shrink a little with every step, so that they are state."""
        for name, buffer in running.network.named_buffers():
            if name.endswith(".block_scale"):
                buffer.mul_(torch.where(skip > 0, 1.0, 0.99))


lumina.register_kind(LowRankPairs())
