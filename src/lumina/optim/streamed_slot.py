"""Parameters whose weights and gradients live in memory of the host.

The gradient leaves when it is complete. A step brings it back with the weights of the
same page of states, and takes the new weights home.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor

from lumina.optim.leaving import Leaving
from lumina.optim.optimizer import Slot
from lumina.optim.paging.home import memory


class StreamedSlot(Slot):
    """A parameter of a block that is on the device only while the block computes.

    Attributes:
        home: gives the weights where they live, in memory of the host.
    """

    home: Callable[[], Tensor]
    _master: Tensor | None = None
    _sum: Tensor | None = None
    _sent: Future[None] | None = None
    _here: Tensor | None = None
    _arrived = False

    @property  # type: ignore[override]
    def master(self) -> Tensor:
        """Float32 weights: those of the parameter itself, where it is float32."""
        if self.parameter.dtype == torch.float32:
            return self.parameter.detach() if self._arrived else self.home()
        assert self._master is not None
        return self._master

    @master.setter
    def master(self, value: Tensor) -> None:
        self._master = value

    def leave(self, leaving: Leaving, dtype: torch.dtype) -> None:
        """Send the parameter's gradient to the host, and release it.

        Args:
            leaving: carries it.
            dtype: of the sum in memory of the host.
        """
        gradient = self.parameter.grad
        assert gradient is not None
        self.parameter.grad = None
        if self._sum is None:
            size = gradient.numel() * dtype.itemsize
            whole = memory(size, pinned=gradient.is_cuda)
            self._sum = whole.view(dtype).view(gradient.shape)
        add = self._sent is not None
        self._sent = leaving.send(gradient, self._sum, add=add)

    def gradient(self) -> Tensor | None:
        """That of the step, on the host where it has left; None if there was none."""
        if self._here is not None:
            return self._here
        if self._sent is None:
            return super().gradient()
        self._sent.result()
        return self._sum

    def zero_grad(self) -> None:
        """Forget the gradients of the step; their memory of the host stays."""
        super().zero_grad()
        if self._sent is not None:
            self._sent.result()
            self._sent = None

    def arrive(self, device: torch.device) -> None:
        """Bring gradient and weights for a step of the optimizer."""
        gradient = self.gradient()
        if gradient is not None:
            self._here = gradient.to(device, non_blocking=True)
        if self.parameter.dtype == torch.float32:
            weights = self.home().to(device, non_blocking=True, copy=True)
        else:  # they are made of the master
            weights = torch.empty_like(self.parameter, device=device)
        self.parameter.data = weights
        self._arrived = True

    @torch.no_grad()
    def depart(self) -> None:
        """Take the weights home."""
        self.write_back()
        home = self.home()
        home.copy_(self.parameter.data, non_blocking=True)
        self.parameter.data = home
        self._here, self._arrived = None, False


def leaves_when_complete(
    slot: StreamedSlot, leaving: Leaving, dtype: torch.dtype
) -> Callable[[Tensor], None]:
    """A hook that sends each gradient of a parameter to the host.

    Args:
        slot: of the parameter.
        leaving: carries gradients.
        dtype: as of `StreamedSlot.leave`.
    """

    # A parameter keeps its hooks where Python's collector does not look: a hook that
    # kept the slot, and with it the parameter, would keep all of the run's tensors.
    found = weakref.ref(slot)

    def leave(_: Tensor) -> None:
        if (one := found()) is not None:
            one.leave(leaving, dtype)

    return leave
