"""The product of every expert's rows with its own matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kernel_applies(x_nd: Tensor, weight: Tensor) -> bool:
    """Whether torch's grouped kernel computes this product.

    The rule: bfloat16 on CUDA, with rows of both operands a multiple of 16 bytes. The
    kernel takes other types only in eager mode, and on the CPU it is itself a loop, so
    everything else takes `segments_mm`, which reads the group sizes on the host.
    """
    return (
        x_nd.is_cuda
        and x_nd.dtype == torch.bfloat16
        and weight.shape[-1] % 8 == 0
        and weight.shape[-2] % 8 == 0
    )


def kernel_mm(x_nd: Tensor, weight: Tensor, offsets_e: Tensor) -> Tensor:
    """torch's grouped matrix product; arguments as in `grouped_linear`."""
    if hasattr(F, "grouped_mm"):
        y_nm: Tensor = F.grouped_mm(x_nd, weight.transpose(-2, -1), offs=offsets_e)
    else:
        y_nm = torch._grouped_mm(x_nd, weight.transpose(-2, -1), offs=offsets_e)
    return y_nm


def grouped_linear(x_nd: Tensor, weight: Tensor, offsets_e: Tensor) -> Tensor:
    """Rows of expert e times `weight[e].T`.

    Args:
        x_nd: [N, D], sorted by expert; N > 0.
        weight: [E, M, D].
        offsets_e: [E] int32, where each expert's rows end.

    Returns:
        [N, M].
    """
    if kernel_applies(x_nd, weight):
        return kernel_mm(x_nd, weight, offsets_e)
    # Only here, since this module loads torch's compiler, which takes seconds.
    from lumina.ops.moe.segments import segments_mm

    y_nm: Tensor = segments_mm(x_nd, weight, offsets_e)
    return y_nm
