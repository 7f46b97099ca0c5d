"""Stochastic gradient descent with momentum, plain or Nesterov's.

Momentum as torch.optim.SGD has it (Sutskever et al., 2013): a running sum, not a mean.
Weight decay is decoupled (SGDW; Loshchilov and Hutter, 2019, arXiv:1711.05101).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.arithmetic import move_, with_gradients
from lumina.optim.declared import Option, StateTensor, register_optimizer
from lumina.optim.optimizer import Optimizer, Slot
from lumina.parallel.mesh import RankGroup


@register_optimizer(
    "sgd",
    words="SGD with momentum",
    states={"velocity": StateTensor()},
    options={"momentum": Option(0.9, least=0, below=1), "nesterov": Option(False)},
    advice="the usual rate is AdamW's, and SGD needs one that is larger by two or "
    "three orders of magnitude, such as --learning-rate 0.1",
)
class SGD(Optimizer):
    """The weights follow a running sum of the gradients.

    Args:
        slots: the parameters it trains.
        options: momentum, the share of the sum that a step keeps, and nesterov, which
            looks one step of momentum ahead.
        device: where its own numbers live.
        ranks: those among which the tokens of a step are divided; None: one alone.
    """

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        self.momentum, self.nesterov = options["momentum"], options["nesterov"]
        for slot in slots:
            slot.state = {"velocity": torch.zeros_like(slot.master)}

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master; arguments as of `Optimizer.step`."""
        rate = lr * (1.0 - skip)
        kept = torch.where(skip > 0, 1.0, self.momentum)
        for slot, gradient in with_gradients(self.slots, divisor, skip):
            velocity = slot.state["velocity"]
            velocity.mul_(kept).add_(gradient)
            if self.nesterov:
                update = gradient.add_(velocity, alpha=self.momentum)
            else:
                update = velocity
            move_(slot, update, rate, weight_decay)
