"""The finite gate, gradient clipping and the loss scale: all on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.parallel.mesh import RankGroup

GROWTH_INTERVAL = 2000
"""Clean steps after which the fp16 loss scale doubles."""


@dataclass
class Verdict:
    """What the gate found, as device tensors; reading one on the host synchronises.

    Attributes:
        norm: [] float32 global gradient norm before clipping, unscaled.
        divisor: [] float32 that gradients are divided by (loss scale / clip).
        skip: [] float32, 1.0 when a gradient was not finite.
        squares: [n] float32, the square of the norm of this rank's part of each
            gradient, as it is before unscaling; None where they were never there
            together.
    """

    norm: Tensor
    divisor: Tensor
    skip: Tensor
    squares: Tensor | None = None


def judge(
    gradients: list[Tensor],
    *,
    loss_scale: Tensor,
    max_norm: Tensor,
    over: RankGroup | None = None,
    counted: Tensor | None = None,
) -> Verdict:
    """Norm, clip coefficient and finiteness of a step's gradients, without a sync.

    Args:
        gradients: this rank's local gradients.
        loss_scale: [] float32 the loss was multiplied by.
        max_norm: [] float32; 0 or less means do not clip.
        over: the ranks that each hold a part of the gradients; None where every rank
            holds all of them.
        counted: [n] float32, 0 for gradients that another rank counts, of those that
            several have whole; None where this rank counts all of its own.
    """
    squares = torch.stack(_norms(gradients, loss_scale.device)).square()
    square = (squares if counted is None else squares * counted).sum()
    if over is not None:
        over.sum_(square)
    norm = square.sqrt() / loss_scale
    finite = torch.isfinite(norm)
    clip = torch.where(max_norm > 0, (max_norm / (norm + 1e-6)).clamp(max=1.0), 1.0)
    divisor = torch.where(finite, loss_scale / clip, torch.ones_like(norm))
    return Verdict(norm, divisor, (~finite).to(torch.float32), squares)


def _norms(gradients: list[Tensor], device: torch.device) -> list[Tensor]:
    """[] float32 each, on the device; those on the host pass it one after the other."""
    here = [one for one in gradients if one.device == device]
    found = iter(torch._foreach_norm(here, 2.0, dtype=torch.float32) if here else ())
    norms = []
    for one in gradients:
        if one.device == device:
            norms.append(next(found))
        else:
            passing = one.to(device, non_blocking=True)
            norms += torch._foreach_norm([passing], 2.0, dtype=torch.float32)
    return norms


class LossScale:
    """Dynamic loss scaling for float16 (Micikevicius et al. 2018), on the device.

    Halves after a non-finite step, doubles after `GROWTH_INTERVAL` clean ones. For
    other types it is the constant one.
    """

    def __init__(self, *, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        start = 2.0**16 if enabled else 1.0
        self.value = torch.tensor(start, dtype=torch.float32, device=device)
        self.clean = torch.zeros((), dtype=torch.float32, device=device)

    def update(self, skip: Tensor) -> None:
        """Adapt to the outcome of a step."""
        if not self.enabled:
            return
        clean = torch.where(skip > 0, 0.0, self.clean + 1)
        grow = clean >= GROWTH_INTERVAL
        factor = torch.where(skip > 0, 0.5, torch.where(grow, 2.0, 1.0))
        self.value.mul_(factor).clamp_(min=1.0, max=2.0**24)
        self.clean.copy_(torch.where(grow, 0.0, clean))

    def state(self) -> dict[str, float]:
        """For the checkpoint. Synchronises."""
        return {"value": self.value.item(), "clean": self.clean.item()}

    def load(self, state: dict[str, float]) -> None:
        """The inverse of `state`; ignored where no scale is needed."""
        if self.enabled:
            self.value.fill_(state["value"])
            self.clean.fill_(state["clean"])
