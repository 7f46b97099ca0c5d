"""GPTQ as its equations are written: column by column, with the inverse Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.gptq.coded import Coded, Grid, prepared


def gptq(weight: Tensor, hessian: Tensor, grid: Grid, damping: float = 0.01) -> Coded:
    """Codes one input after the other; later inputs make up for the error.

    For input q and those after it, F, with H the Hessian among F (Frantar et al., 2022,
    arXiv:2210.17323, equation 2)::

        w_F <- w_F - (w_q - code(w_q)) / [H^-1]_qq * [H^-1]_q,:

    Args:
        weight: [out, in].
        hessian: [in, in], the sum of x x^T over inputs x [in].
        grid: to round to; a group's scale is that of its numbers when it is come to.
        damping: share of the mean diagonal that is added to it.
    """
    width = weight.shape[-1]
    left, whole = weight.clone(), prepared(hessian, damping)
    codes = torch.zeros_like(weight)
    scales, zeros = [], []
    for q in range(width):
        if q % grid.group == 0:
            scale, zero = grid.steps(left[:, q : q + grid.group])
            scales.append(scale)
            zeros.append(zero)
        codes[:, q] = grid.codes(left[:, q], scales[-1], zeros[-1])
        held = scales[-1] * (codes[:, q] - zeros[-1])
        inverse = torch.linalg.inv(whole[q:, q:])
        error = (left[:, q] - held) / inverse[0, 0]
        left[:, q:] -= error[:, None] * inverse[0]
    return Coded(
        codes.to(torch.uint8),
        torch.stack(scales, dim=-1),
        torch.stack(zeros, dim=-1).to(torch.uint8),
        torch.arange(width, device=weight.device) // grid.group,
    )
