"""AdamW as its paper writes it (Loshchilov and Hutter 2019), on float32 tensors."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def adamw_(
    master: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    weight: Tensor,
    *,
    lr: Tensor,
    divisor: Tensor,
    skip: Tensor,
    correction1: Tensor,
    correction2: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Update in place; nothing changes where `skip` is not zero.

    Args:
        master: float32 weights.
        grad: the gradient, any floating type, `master`'s shape.
        exp_avg: float32 first moment.
        exp_avg_sq: float32 second moment.
        weight: receives the new weights in its own type; may be `master`.
        lr: [] float32.
        divisor: [] float32 the gradient is divided by.
        skip: [] float32, 1.0 to change nothing.
        correction1: [] 1 - beta1 ** step, this step counted.
        correction2: [] 1 - beta2 ** step.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the denominator.
        weight_decay: decoupled decay.
    """
    if skip.item():
        return
    g = grad.float() / divisor
    master.mul_(1 - lr * weight_decay)
    exp_avg.lerp_(g, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    denominator = (exp_avg_sq / correction2).sqrt() + eps
    master.sub_(lr * (exp_avg / correction1) / denominator)
    if weight is not master:
        weight.copy_(master)
