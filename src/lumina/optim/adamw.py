"""Fused AdamW on float32 master weights, with the finite gate and clip folded in.

Decoupled weight decay (Loshchilov and Hutter 2019). What is added to torch's own is
where the masters live, that a step which met a non-finite gradient changes nothing
without the host ever looking, and on CUDA one pass over memory in place of three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

CHUNK_BYTES = 256 * 2**20
"""Most bytes of float32 gradients made at a time from half-precision ones."""


@dataclass
class Slot:
    """One trained parameter and what the optimizer keeps for it.

    Attributes:
        name: the parameter's name in the network.
        parameter: what the network computes with; maybe sharded, maybe half precision.
        master: local float32 weights; the parameter's own storage when it is float32.
        exp_avg: local float32 first moment, the master's shape.
        exp_avg_sq: local float32 second moment.
        decay: whether weight decay applies (matrices only).
        accumulator: local float32 gradient sum, where the parameter's own gradient
            is half precision and a step has several forwards.
    """

    name: str
    parameter: nn.Parameter
    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    decay: bool
    accumulator: Tensor | None = None

    def gradient(self) -> Tensor | None:
        """The local gradient of the step, or None if there was none."""
        if self.accumulator is not None:
            return self.accumulator
        gradient = self.parameter.grad
        return None if gradient is None else local(gradient)


def local(tensor: Tensor) -> Tensor:
    """The part of a possibly sharded tensor that lies on this device."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


class AdamW:
    """The optimizer of a `Program`.

    Args:
        slots: the trained parameters.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the denominator.
        device: where the step counter lives.
        fused: use the one-pass kernel; default: on CUDA where Triton is there.
    """

    def __init__(
        self,
        slots: list[Slot],
        *,
        beta1: float,
        beta2: float,
        eps: float,
        device: torch.device,
        fused: bool | None = None,
    ) -> None:
        self.slots = slots
        if fused is None:
            fused = device.type == "cuda" and find_spec("triton") is not None
        self.fused = fused
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        # One counter a slot, because the fused kernel adds to each of them; all are
        # views of one tensor and always equal.
        self.steps = torch.zeros(max(len(slots), 1), dtype=torch.float32, device=device)
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
        # In float64: 1 - beta ** step cancels in the first steps.
        step = self.steps[0].double()
        correction1 = (1.0 - self.beta1**step).float()
        correction2 = (1.0 - self.beta2**step).float()
        for slot in self.slots:
            gradient = slot.gradient()
            if gradient is None:
                continue
            adamw_(
                slot.master,
                gradient.contiguous(),
                slot.exp_avg,
                slot.exp_avg_sq,
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
            [s.exp_avg for s in slots],
            [s.exp_avg_sq for s in slots],
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

    def zero_grad(self) -> None:
        """Forget the gradients of the step."""
        for slot in self.slots:
            slot.parameter.grad = None
            if slot.accumulator is not None:
                slot.accumulator.zero_()
