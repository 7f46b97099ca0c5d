"""Experts of few tokens, as in decoding: shapes depend on nothing the router says.

Only the matrices of chosen experts are read, unless more rows than experts make every
one likely to be chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.low_bits.product import Weight, as_tensor
from lumina.ops.moe.grouped import Through, alone, swiglu
from lumina.ops.moe.grouped import routed_experts as by_groups
from lumina.ops.moe.products import kernel_applies


def routed_experts(
    x_td: Tensor,
    gate_up: Weight,
    down: Weight,
    ids_tk: Tensor,
    scores_tk: Tensor,
    through: Through = alone,
) -> Tensor:
    """Every token through all its experts; arguments as in `reference`."""
    if isinstance(gate_up, Tensor) and kernel_applies(x_td, gate_up):
        return by_groups(x_td, gate_up, down, ids_tk, scores_tk, through)
    tokens, chosen = ids_tk.shape
    ids_n = ids_tk.flatten()

    def multiply(x_nd: Tensor, weight: Weight) -> Tensor:
        return product(x_nd, as_tensor(weight, x_nd.dtype), ids_n)

    x_nd = x_td[:, None].expand(-1, chosen, -1).flatten(0, 1)
    hidden_nm = swiglu(through("gate_up", x_nd, gate_up, multiply))
    y_nd = through("down", hidden_nm, down, multiply)
    y_tkd = y_nd.view(tokens, chosen, -1).float() * scores_tk[..., None]
    total_td = y_tkd[:, 0]
    for choice in range(1, chosen):  # in the order of `lumina.ops.moe.permute.combine`
        total_td = total_td + y_tkd[:, choice]
    return total_td.to(x_td.dtype)


def product(x_nd: Tensor, weight: Tensor, ids_n: Tensor) -> Tensor:
    """Rows [N, D], each times the transposed matrix of its expert; [E, M, D] of all."""
    experts = weight.shape[0]
    if len(ids_n) <= experts:
        return torch.bmm(weight.index_select(0, ids_n), x_nd[..., None])[..., 0]
    y_nm = x_nd.new_zeros(len(x_nd), weight.shape[1])
    for expert in range(experts):
        own_n1 = (ids_n == expert)[:, None]
        y_nm = torch.where(own_n1, x_nd @ weight[expert].T, y_nm)
    return y_nm
