"""AdamW on float32 master weights, with the finite gate and clip folded in.

Decoupled weight decay (Loshchilov and Hutter 2019). What is added to torch's own: the
masters may lie apart from the weights; a step that met a non-finite gradient changes
nothing, without a value being read back to the host; and on CUDA there is one pass over
memory in place of three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lumina.ops.triton_there import has_triton
from lumina.optim.declared import by_element, register_optimizer
from lumina.optim.moments import MOMENTS, TwoMoments
from lumina.optim.optimizer import Slot, local
from lumina.parallel.mesh import RankGroup

CHUNK_BYTES = 256 * 2**20
"""Most bytes of float32 gradients made at a time from half-precision ones."""


@register_optimizer(
    "adamw",
    words="AdamW",
    transfer=by_element,
    states=MOMENTS,
    settings={"beta1": "beta1", "beta2": "beta2", "eps": "eps"},
)
class AdamW(TwoMoments):
    """Adam, with weight decay apart from the gradient.

    Args:
        slots: the parameters it trains.
        options: beta1 and beta2, the decay rates of the moments, and eps, which is
            added to the denominator.
        device: where the step counter lives.
        ranks: those among which the tokens of a step are divided; None: one alone.
        fused: use the one-pass kernel; default: on CUDA where Triton is there.
    """

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        if fused is None:
            fused = device.type == "cuda" and has_triton()
        self.fused = fused
        self.eps = options["eps"]
        self._counters = list(self.steps.unbind())

    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master, and the half-precision weights made from them.

        Args:
            lr: [] float32 on the device.
            weight_decay: decoupled decay of the slots that decay.
            divisor: [] float32 the gradients are divided by (loss scale / clip).
            skip: [] float32, 1.0 where nothing may change.
        """
        update = self._step_fused if self.fused else self._step_torch
        update(lr, weight_decay, divisor, skip)

    def _step_fused(
        self, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """One kernel a parameter, reading gradients in whatever type they have."""
        from lumina.ops.adamw.fused import adamw_

        self.steps.add_(1.0 - skip)
        correction1, correction2 = self.corrections()
        for slot in self.slots:
            gradient = slot.gradient()
            if gradient is None:
                continue
            adamw_(
                slot.master,
                gradient.contiguous(),
                slot.state["exp_avg"],
                slot.state["exp_avg_sq"],
                local(slot.parameter.data),
                lr=lr,
                divisor=divisor,
                skip=skip,
                correction1=correction1,
                correction2=correction2,
                beta1=self.beta1,
                beta2=self.beta2,
                eps=self.eps,
                weight_decay=weight_decay if slot.decay else 0.0,
            )
            slot.settle()

    def _step_torch(
        self, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """torch's fused kernel, on float32 copies of half-precision gradients."""
        for decay in (True, False):
            chosen = [i for i, slot in enumerate(self.slots) if slot.decay is decay]
            for chunk in self._chunks(chosen):
                self._step_chunk(chunk, lr, weight_decay * decay, divisor, skip)

    def _chunks(self, chosen: list[int]) -> Iterator[list[int]]:
        """Groups whose temporary float32 gradients stay below `CHUNK_BYTES`."""
        chunk: list[int] = []
        size = 0
        for index in chosen:
            gradient = self.slots[index].gradient()
            if gradient is None:
                continue
            extra = 0 if gradient.dtype == torch.float32 else gradient.numel() * 4
            if chunk and size + extra > CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
            chunk.append(index)
            size += extra
        if chunk:
            yield chunk

    def _step_chunk(
        self,
        chunk: list[int],
        lr: Tensor,
        weight_decay: float,
        divisor: Tensor,
        skip: Tensor,
    ) -> None:
        slots = [self.slots[i] for i in chunk]
        gradients = [g.float() for s in slots if (g := s.gradient()) is not None]
        adamw(
            [s.master for s in slots],
            gradients,
            [s.state["exp_avg"] for s in slots],
            [s.state["exp_avg_sq"] for s in slots],
            [],
            [self._counters[i] for i in chunk],
            fused=True,
            grad_scale=divisor,
            found_inf=skip,
            amsgrad=False,
            beta1=self.beta1,
            beta2=self.beta2,
            lr=lr,
            weight_decay=weight_decay,
            eps=self.eps,
            maximize=False,
        )
        half = [s for s in slots if s.parameter.dtype != torch.float32]
        if half:
            with torch.no_grad():
                torch._foreach_copy_(
                    [local(s.parameter.data) for s in half], [s.master for s in half]
                )
        for slot in slots:
            slot.settle()
