"""DeepSeek's latent attention as Lumina computes it: the same function, other weights.

Two habits of a folder are taken up by its weights as they are read. Some lay rotated
channels out in halves, not in neighbouring pairs (`rope_interleave` false): the rows
that make them are put in the other order. Some scale scores under YaRN by another
`mscale` than one: queries are scaled by what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.model.spec import ModelSpec
from lumina.state.huggingface.rope import yarn_temperature


@dataclass(frozen=True)
class Habits:
    """How a folder's latent attention differs from Lumina's.

    Attributes:
        halves: rotated channels lie in halves.
        query_scale: what queries are to be multiplied by.
    """

    halves: bool = False
    query_scale: float = 1.0

    def taken_up(self, spec: ModelSpec, name: str, tensor: Tensor) -> Tensor:
        """The logical tensor `name` as Lumina's model wants it."""
        queries = name.endswith((".attention.q.weight", ".attention.q_up.weight"))
        if queries and self.query_scale != 1.0:
            tensor = tensor * self.query_scale
        if not self.halves:
            return tensor
        if queries:
            heads = tensor.unflatten(0, (spec.num_heads, spec.head_dim))
            return _paired(heads, spec.mla_rope_dim, 1).flatten(0, 1)
        if name.endswith(".attention.kv_down.weight"):
            return _paired(tensor, spec.mla_rope_dim, 0)
        return tensor


def habits_of(config: Mapping[str, Any], spec: ModelSpec) -> Habits:
    """What the configuration of a folder says."""
    if not spec.mla_kv_rank:
        return Habits()
    scale, mscale = 1.0, yarn_temperature(config)
    if mscale is not None and spec.rope_factor > 1:
        growth = 0.1 * math.log(spec.rope_factor)
        scale = ((mscale * growth + 1) / (growth + 1)) ** 2
    return Habits(not config.get("rope_interleave", True), scale)


def _paired(tensor: Tensor, rotated: int, dim: int) -> Tensor:
    """The last `rotated` channels along `dim`: first and second halves side by side."""
    plain, turned = tensor.split((tensor.shape[dim] - rotated, rotated), dim=dim)
    pairs = torch.stack(turned.chunk(2, dim=dim), dim=dim + 1)
    return torch.cat([plain, pairs.flatten(dim, dim + 1)], dim=dim).contiguous()
