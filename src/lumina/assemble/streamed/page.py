"""The weights of one block in one piece of memory beside the device.

While a graph stands that reads them, trained weights that are not on the device are
nothing but NaN of their shape there: torch gives a parameter another gradient
accumulator when it comes to another device, and a graph would lose its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina.assemble.streamed.carrier import Arrival, Carrier
from lumina.model.stored import StoredWeight
from lumina.optim.paging.home import Home, aligned
from lumina.optim.paging.sizes import BETWEEN


class WeightPage:
    """A block's weights: on the device while the block computes, else at home.

    Args:
        block: the module.
        home: the class of the place where the tensors live.
        folder: as of `Home`.
        stays: whether a parameter stays on the device, by its name in the block.

    Attributes:
        size: bytes of the page; 0 before it has its place.
        device: where the block computes; None before the network has left the meta
            device.
    """

    def __init__(
        self,
        block: nn.Module,
        home: type[Home],
        folder: Path,
        stays: Callable[[str, nn.Parameter], bool],
    ) -> None:
        self.block, self.folder = block, folder
        self._leaves: dict[nn.Module, list[str]] = {}
        for path, module in block.named_modules():
            named = module.named_parameters(path, recurse=False)
            leaves = [name for name, one in named if not stays(name, one)]
            self._leaves[module] = [name.rpartition(".")[2] for name in leaves]
        self._home_class = home
        self.home: Home | None = None
        self.size = 0
        self.device: torch.device | None = None
        self._places: list[tuple[Tensor, int]] = []
        self._here: Tensor | None = None
        self._coming: Arrival | None = None
        self._views_at_home: dict[int, Tensor] = {}
        self._nowhere = False
        for module in block.modules():
            # On the instance: a module of another class would be no block any more.
            if any(True for _ in self.own(module)):
                module._apply = _Stays(self, module, module._apply)  # type: ignore[method-assign]

    def tensors(self) -> Iterator[Tensor]:
        """What lives at home, in the order of the modules."""
        for module in self.block.modules():
            yield from self.own(module)

    def own(self, module: nn.Module) -> Iterator[Tensor]:
        """The tensors of a module itself that live beside the device.

        Its parameters that do not stay, and the buffers of matrices in few bits.
        """
        for leaf in self._leaves[module]:
            yield module.get_parameter(leaf)
        if isinstance(module, StoredWeight):
            for piece in module.children():
                yield from piece.buffers(recurse=False)

    def home_of(self, tensor: Tensor) -> Tensor:
        """Where a tensor of the page lives; itself, where it has no place yet."""
        return self._views_at_home.get(id(tensor), tensor.detach())

    def settle(self, device: torch.device) -> None:
        """Move the tensors from ordinary memory of the host into the page.

        Called when they have their values. One block at a time is there twice.

        Raises:
            LuminaError: what the place says that has no room.
        """
        if self.home is not None:
            return
        self.device = device
        end, places = 0, []
        for tensor in self.tensors():
            places.append((tensor, end))
            end += -(-tensor.nbytes // BETWEEN) * BETWEEN
        self.size = aligned(end)
        self.home = self._home_class(
            self.size, self.folder, pinned=device.type == "cuda"
        )
        self._places = places
        for (tensor, _), place in zip(places, self._views(self.home.rest), strict=True):
            place.copy_(tensor.data)
            tensor.data = self._views_at_home[id(tensor)] = place

    def _views(self, content: Tensor) -> Iterator[Tensor]:
        """Each tensor as a part of the page's bytes."""
        for tensor, begin in self._places:
            part = content[begin : begin + tensor.nbytes]
            yield part.view(tensor.dtype).view(tensor.shape)

    @property
    def here(self) -> bool:
        """Whether the tensors are on the device."""
        return self._here is not None

    @property
    def on_its_way(self) -> bool:
        """Whether a copy to the device has begun that was not waited for."""
        return self._coming is not None

    def holds(self, address: int) -> bool:
        """Whether a storage at this address is that of the page on the device."""
        return (
            self._here is not None
            and self._here.untyped_storage().data_ptr() == address
        )

    def part(self, like: tuple[int, Any, Any, torch.dtype]) -> Tensor:
        """A tensor of the page on the device, by its place in it.

        Args:
            like: its first byte, shape, strides and type.
        """
        assert self._here is not None
        begin, shape, strides, dtype = like
        # A view of bytes from this place on need not end where a number ends.
        rest = self._here[begin:]
        rest = rest[: rest.numel() // dtype.itemsize * dtype.itemsize]
        return rest.view(dtype).as_strided(shape, strides)

    def bring(self, carrier: Carrier) -> None:
        """Begin to bring the tensors, unless they are here or on their way."""
        if self._here is None and self._coming is None:
            assert self.home is not None
            self._coming = carrier.begin(self.home)

    def arrive(self, carrier: Carrier) -> None:
        """Let the tensors be those on the device, when they have arrived."""
        if self._here is not None:
            return
        self.bring(carrier)
        assert self._coming is not None
        self._here, self._coming = carrier.wait(self._coming), None
        self._become(self._here)

    def leave(self, carrier: Carrier, *, graph: bool = False) -> None:
        """Let the tensors be those at home; the memory of the device is free again.

        Args:
            carrier: what brought them.
            graph: a graph stands that reads them.
        """
        if self._coming is not None:
            # Freed sooner, it could be used while the copy into it is under way.
            carrier.wait(self._coming)
            self._coming = None
        if self._here is not None or (self._nowhere and not graph):
            for tensor, _ in self._places:
                if graph and tensor.requires_grad:
                    nan = _nan(tensor.dtype, self.device)
                    tensor.data = nan.expand(tensor.shape)
                    self._nowhere = True
                else:
                    tensor.data = self._views_at_home[id(tensor)]
            self._nowhere &= graph
            self._here = None

    def _become(self, content: Tensor) -> None:
        for (tensor, _), view in zip(
            self._places, list(self._views(content)), strict=True
        ):
            tensor.data = view

    def close(self) -> None:
        """Release the page's memory and files."""
        self._here = self._coming = None
        if self.home is not None:
            self.home.close()
            self.home = None
            self._places, self._views_at_home = [], {}


class _Stays:
    """`Module._apply` of a module some of whose tensors stay in memory of the host.

    They take a type, or memory where there was none, but no other device.
    """

    def __init__(
        self, page: WeightPage, module: nn.Module, apply: Callable[..., Any]
    ) -> None:
        self.page, self.module, self.apply = page, module, apply

    def __call__(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        mine = {id(tensor) for tensor in self.page.own(self.module)}

        def moved(tensor: Tensor) -> Tensor:
            if id(tensor) not in mine:
                return fn(tensor)
            made = _at_home(tensor, fn)
            if self.page.home is not None and made.dtype != tensor.dtype:
                raise RuntimeError(
                    "weights that live beside the device keep their type: the place "
                    "of each has its size"
                )
            return made

        return self.apply(moved, recurse)


def _at_home(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """What `fn` makes of a tensor, in memory of the host; itself where that is it."""
    made = fn(torch.empty(0, dtype=tensor.dtype, device=tensor.device))
    if tensor.device.type == "meta":
        device = "meta" if made.device.type == "meta" else "cpu"
        return torch.empty(tensor.shape, dtype=made.dtype, device=device)
    return tensor if made.dtype == tensor.dtype else tensor.data.to(made.dtype)


def _nan(dtype: torch.dtype, device: torch.device | None) -> Tensor:
    return torch.full((), math.nan, dtype=dtype, device=device)
