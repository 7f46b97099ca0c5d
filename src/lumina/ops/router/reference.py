"""The plain form: both sides in float32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def router_linear(x_td: Tensor, weight_ed: Tensor) -> Tensor:
    """Logits [T, E] float32 of tokens [T, D] and a weight [E, D]; any leading axes."""
    return F.linear(x_td.float(), weight_ed.float())
