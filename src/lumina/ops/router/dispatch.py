"""Which form computes a router's logits."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.router.reference import router_linear as reference
from lumina.ops.router.split import split_linear


def router_linear(x: Tensor, weight_ed: Tensor) -> Tensor:
    """Logits [..., E] float32 of tokens [..., D] and a weight [E, D].

    Float32 products have no tensor cores and want a float32 copy of the tokens; on a
    GPU, bfloat16 tokens go the exact way round (`split`).
    """
    if x.is_cuda and x.dtype == torch.bfloat16:
        flat: Tensor = split_linear(x.reshape(-1, x.shape[-1]), weight_ed.float())
        return flat.view(*x.shape[:-1], len(weight_ed))
    return reference(x, weight_ed)
