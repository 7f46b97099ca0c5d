"""The oracle: one expert after another, everything in the open."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def routed_experts(
    x_td: Tensor,
    gate_up: Tensor,
    down: Tensor,
    ids_tk: Tensor,
    scores_tk: Tensor,
    keep_tk: Tensor | None = None,
) -> Tensor:
    """Each token's chosen experts, weighted by their scores and added up.

    Args:
        x_td: [T, D] tokens.
        gate_up: [E, 2M, D], the gate's rows before the up projection's.
        down: [E, D, M].
        ids_tk: [T, k] the experts a token goes to, all different.
        scores_tk: [T, k] float32.
        keep_tk: [T, k] bool, the assignments that are not dropped; all when absent.

    Returns:
        [T, D] in the type of `x_td`.
    """
    y_td = torch.zeros_like(x_td, dtype=torch.float32)
    for expert, (w_gate_up, w_down) in enumerate(zip(gate_up, down, strict=True)):
        chosen_tk = ids_tk == expert
        if keep_tk is not None:
            chosen_tk = chosen_tk & keep_tk
        score_t = (scores_tk * chosen_tk).sum(dim=1)
        rows = chosen_tk.any(dim=1).nonzero().squeeze(1)
        gate, up = F.linear(x_td[rows], w_gate_up).chunk(2, dim=-1)
        out = F.linear(F.silu(gate) * up, w_down)
        y_td = y_td.index_add(0, rows, out.float() * score_t[rows, None])
    return y_td.to(x_td.dtype)
