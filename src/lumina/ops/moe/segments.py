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
        F.linear(rows, expert)
        for rows, expert in zip(x_nd.split(sizes), weight.unbind(0), strict=True)
        if rows.shape[0]
    ]
    return torch.cat(parts)
