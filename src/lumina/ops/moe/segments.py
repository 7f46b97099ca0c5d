"""A product for each expert's rows, where the grouped kernel does not apply."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def segments_mm(x_nd: Tensor, weight: Tensor, offsets_e: Tensor) -> Tensor:
    """One product per contiguous segment; arguments as in `grouped_linear`.

    Never compiled: its shapes are those of each step's routing, and code for every one
    of them would be made again until torch gives up.
    """
    ends = offsets_e.tolist()
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    parts = [
        _product(rows, expert)
        for rows, expert in zip(x_nd.split(sizes), weight.unbind(0), strict=True)
        if rows.shape[0]
    ]
    return torch.cat(parts)


def _product(rows: Tensor, expert: Tensor) -> Tensor:
    """`rows` times `expert.T`.

    On a CPU the half-precision product keeps compiled code and buffers for each shape
    it has met, about a megabyte each, and routing brings new shapes in every step. Rows
    of zeros round the number up to one of a few.
    """
    if rows.device.type != "cpu" or rows.dtype == torch.float32:
        return F.linear(rows, expert)
    y: Tensor = rounded_product(rows, expert)
    return y


@torch.library.custom_op(
    "lumina::rounded_product",
    mutates_args=(),
    schema="(Tensor rows, Tensor expert) -> Tensor",
)
def rounded_product(rows: Tensor, expert: Tensor) -> Tensor:
    """The product of padded rows; an operator, so that only given rows are kept."""
    return F.linear(_padded(rows), expert)[: rows.shape[0]].clone()


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    rows, expert = ctx.saved_tensors
    padded = _padded(grad)
    of_rows = of_expert = None
    if ctx.needs_input_grad[0]:
        of_rows = (padded @ expert)[: rows.shape[0]]
    if ctx.needs_input_grad[1]:
        of_expert = padded.mT @ _padded(rows)
    return of_rows, of_expert


rounded_product.register_autograd(_backward, setup_context=_keep)


def _padded(rows: Tensor) -> Tensor:
    count = rows.shape[0]
    return F.pad(rows, (0, 0, 0, rounded_up(count) - count))


def rounded_up(count: int) -> int:
    """`count`, or up to a quarter more: four sizes for each doubling, from 16 on."""
    step = max(16, 2 ** (count.bit_length() - 3))
    return int(-(-count // step) * step)
