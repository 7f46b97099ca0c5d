"""A product for each expert's rows, where the grouped kernel does not apply."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def segments_mm(x_nd: Tensor, weight: Tensor, offsets_e: Tensor) -> Tensor:
    """One product per contiguous segment; arguments as in `grouped_linear`.

    Never compiled: its shapes are those of each step's routing, and code for every one
    of them would be made anew until torch gives up.
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
    count = rows.shape[0]
    padded = F.pad(rows, (0, 0, 0, rounded_up(count) - count))
    return F.linear(padded, expert)[:count]


def rounded_up(count: int) -> int:
    """`count`, or up to a quarter more: four sizes for each doubling, from 16 on."""
    step = max(16, 2 ** (count.bit_length() - 3))
    return int(-(-count // step) * step)
