"""Lion, the sign of a running mean (Chen et al., 2023, arXiv:2302.06675)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.arithmetic import move_, with_gradients
from lumina.optim.declared import Option, StateTensor, by_element, register_optimizer
from lumina.optim.optimizer import Optimizer, Slot
from lumina.parallel.mesh import RankGroup


@register_optimizer(
    "lion",
    words="Lion",
    transfer=by_element,
    states={"exp_avg": StateTensor()},
    options={
        "beta1": Option(0.9, least=0, below=1),
        "beta2": Option(0.99, least=0, below=1),
    },
    advice="the usual rate is AdamW's, and Lion needs one that is 3 to 10 times "
    "smaller, such as --learning-rate 5e-5, with a --weight-decay that is larger by "
    "the same factor",
)
class Lion(Optimizer):
    """Every weight moves by the same amount, in the direction of a running mean.

    Args:
        slots: the parameters it trains.
        options: beta1, the share of the mean in the direction of a step, and beta2,
            the share of the mean that a step keeps.
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
        self.beta1, self.beta2 = options["beta1"], options["beta2"]
        for slot in slots:
            slot.state = {"exp_avg": torch.zeros_like(slot.master)}

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master; arguments as of `Optimizer.step`."""
        moves = 1.0 - skip
        rate, share = lr * moves, (1.0 - self.beta2) * moves
        for slot, gradient in with_gradients(self.slots, divisor, skip):
            mean = slot.state["exp_avg"]
            update = mean.lerp(gradient, 1.0 - self.beta1).sign_()
            mean.lerp_(gradient, share)
            move_(slot, update, rate, weight_decay)
