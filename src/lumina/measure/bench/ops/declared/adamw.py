"""One step of AdamW on the weights of a feed-forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumina.measure.bench.ops.op import (
    Op,
    Shape,
    Version,
    Work,
    normal,
    register_op,
    wants_cuda,
)
from lumina.ops.adamw.reference import adamw_ as reference

RATE = 1e-3
NUMBERS: dict[str, Any] = {
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
}


def _inputs(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    size = 3 * shape.ffn, shape.hidden
    scalars = {"lr": RATE, "divisor": 1.0, "correction1": 0.1, "correction2": 0.05}
    return {
        "master": normal(size, device, torch.float32, 0.02),
        "grad": normal(size, device, dtype),
        "exp_avg": normal(size, device, torch.float32, 0.1),
        "exp_avg_sq": normal(size, device, torch.float32).square(),
        "weight": torch.zeros(size, device=device, dtype=dtype),
        "skip": torch.zeros((), device=device),
        **{name: torch.tensor(x, device=device) for name, x in scalars.items()},
    }


def _plain(**given: Any) -> None:
    reference(**given, **NUMBERS)


def _fused(**given: Any) -> None:
    from lumina.ops.adamw.fused import adamw_

    adamw_(**given, **NUMBERS)


def _torch(**given: Any) -> None:
    """torch's fused kernel, and the copy of the weights that it leaves."""
    grad: Tensor = given["grad"].float()
    torch._fused_adamw_(
        [given["master"]], [grad], [given["exp_avg"]], [given["exp_avg_sq"]], [],
        [_step(given)], amsgrad=False, lr=RATE, maximize=False, **NUMBERS,
    )  # fmt: skip
    given["weight"].copy_(given["master"])


def _step(given: dict[str, Any]) -> Tensor:
    """The step whose corrections these are: the first."""
    return torch.ones((), device=given["master"].device)


def _work(shape: Shape, size: int) -> Work:
    values = 3 * shape.ffn * shape.hidden
    # Masters and both moments read and written in float32; the gradient; the weights.
    return Work(12 * values, values * (24 + 2 * size))


register_op(
    Op(
        "adamw", _inputs, Version(_plain),
        {"fused": Version(_fused, wants_cuda), "torch": Version(_torch)}, _work,
        in_place=("master", "exp_avg", "exp_avg_sq", "weight"),
    )
)  # fmt: skip
