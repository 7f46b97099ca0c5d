"""Weights that are kept in 16 bits alone, without float32 masters.

While an optimizer changes a weight it is widened to float32; afterwards it is rounded
up or down at random, so that the mean is right. Rounded to the nearest, it would stand
still where a step changes it by less than half of its last bit (Gupta et al., 2015,
arXiv:1502.02551).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.optim.optimizer import Slot, local
from lumina.optim.rounding import rounded_to


class HeldSlot(Slot):
    """A parameter in 16 bits, whose master exists only while a step changes it.

    The random bits are those of torch, which `train_step` seeds by the number of the
    step: a resumed run rounds as one that never stopped.
    """

    keeps_master = False
    _wide: Tensor | None = None

    @property  # type: ignore[override]
    def master(self) -> Tensor:
        """The weights in float32, made on demand and kept until they are rounded."""
        if self._wide is None:
            self._wide = local(self.parameter.detach()).float()
        return self._wide

    @master.setter
    def master(self, value: Tensor) -> None:
        self._wide = value

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the widened weights into the parameter, and release them."""
        if self._wide is None:
            return
        weights = local(self.parameter.data)
        bits = torch.randint(
            2**16, weights.shape, dtype=torch.int32, device=weights.device
        )
        weights.copy_(rounded_to(self._wide, bits, weights.dtype))
        self._wide = None

    def settle(self) -> None:
        """As `write_back`, over the nearest values that a kernel wrote."""
        self.write_back()

    def release(self) -> None:
        """Release weights that were widened to be read."""
        self._wide = None
