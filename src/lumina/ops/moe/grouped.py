"""Dropless experts: sort the assignments by expert, then one product over all groups.

Shapes depend only on tokens and k, and the group boundaries stay on the device, so the
kernel path neither synchronises nor recompiles, whatever the router does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina.ops.low_bits.product import Weight, multiplied
from lumina.ops.moe.parted import Parted, rows_across
from lumina.ops.moe.permute import combine, dispatch


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [..., 2M], the gate in the first half."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def sort_by_expert(ids_tk: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where every assignment goes when they are ordered by expert, then by token.

    Returns:
        `order_n` [T*k], the assignment (t * k + choice) at each sorted place;
        `place_tk` [T, k], its inverse; `offsets_e` [E] int32, where each group ends.
    """
    tokens, top_k = ids_tk.shape
    sorted_n, order_n = torch.sort(ids_tk.reshape(-1), stable=True)
    places = torch.arange(tokens * top_k, device=ids_tk.device)
    place_tk = torch.empty_like(order_n).scatter(0, order_n, places)
    experts = torch.arange(num_experts, device=ids_tk.device)
    # Not bincount, which synchronises to size its result.
    offsets_e = torch.searchsorted(sorted_n, experts, right=True, out_int32=True)
    return order_n, place_tk.view(tokens, top_k), offsets_e


Multiply = Callable[[Tensor, Weight], Tensor]
"""Rows, each by the matrix of its expert: x [..., D] and weights [E, M, D]."""

Through = Callable[[str, Tensor, Weight, Multiply], Tensor]
"""What multiplies by `gate_up` or `down`: the name, the rows, the matrices and what
multiplies by matrices. It may add to the product."""


def alone(name: str, x: Tensor, weight: Weight, multiply: Multiply) -> Tensor:
    """The product with nothing added."""
    return multiply(x, weight)


def routed_experts(
    x_td: Tensor,
    gate_up: Weight,
    down: Weight,
    ids_tk: Tensor,
    scores_tk: Tensor,
    through: Through = alone,
    product: Callable[[Tensor, Weight, Tensor], Tensor] = multiplied,
    activation: Callable[[Tensor], Tensor] = swiglu,
    parted: Parted | None = None,
) -> Tensor:
    """Every token through all its experts; arguments as in `reference`.

    Args:
        product: multiplies sorted rows by the experts' matrices, up to the offsets.
        activation: SwiGLU's product of [N, 2M].
        parted: how experts are divided over ranks, each of which has the matrices of
            its own ones; None: all of them are here.
    """
    experts = gate_up.shape[0] if parted is None else parted.num_experts
    slots_tk = ids_tk if parted is None else parted.slots_of(ids_tk)
    order_n, place_tk, offsets_e = sort_by_expert(slots_tk, experts)
    x_nd = dispatch(x_td, order_n // ids_tk.shape[1], place_tk)

    def feed(rows_nd: Tensor, ends_e: Tensor) -> Tensor:
        def multiply(x: Tensor, weight: Weight) -> Tensor:
            return product(x, weight, ends_e)

        hidden_nm = activation(through("gate_up", rows_nd, gate_up, multiply))
        return through("down", hidden_nm, down, multiply)

    if parted is None:
        y_nd = feed(x_nd, offsets_e)
    else:
        y_nd = rows_across(x_nd, offsets_e, parted, feed)
    return combine(y_nd, scores_tk, place_tk, order_n)
