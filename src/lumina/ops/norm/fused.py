"""RMSNorm through the kernel PyTorch brings, which also computes in float32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same as the reference; `weight` is cast to the type of `x` first."""
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)
