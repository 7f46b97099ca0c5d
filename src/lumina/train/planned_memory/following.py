"""Follows every tensor of a step from its first byte to its last, by its storage."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumina.train.planned_memory.allocator import CachingAllocator

Workspace = Callable[..., int]
"""Bytes that a kernel takes beside its results, from the arguments of its operator."""

Inside = Callable[..., Any]
"""What an operator does, written in other operators."""

PRODUCTS = frozenset(
    getattr(packet, overload)
    for packet in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
    for overload in packet.overloads()
)
"""Operators that call the library of matrix products."""


def _sum_with_product(
    total: Tensor, a: Tensor, b: Tensor, out_dtype: torch.dtype, **named: Any
) -> Tensor:
    """The shape of `addmm` with a type of its own, which PyTorch 2.11 cannot tell."""
    out: Tensor | None = named.get("out")
    if out is not None:
        return out
    return total.new_empty((a.shape[0], b.shape[1]), dtype=out_dtype)


_SHAPES = {
    torch.ops.aten.addmm.dtype: _sum_with_product,
    torch.ops.aten.addmm.dtype_out: _sum_with_product,
}
"""Operators of tensors without memory that PyTorch does not know everywhere."""


@dataclass
class Held:
    """A storage.

    Attributes:
        name: what it is.
        size: its bytes, as asked for.
        made: the moment when it was made.
        ended: the moment when it was released; None: it is there.
    """

    name: str
    size: int
    made: int
    ended: int | None = None


@dataclass
class Peak:
    """The most bytes of a stage, and the moment when they were there."""

    allocated: int = 0
    reserved: int = 0
    requested: int = 0
    moment: int = 0


class Following(TorchDispatchMode):
    """Gives the storages that operators make to an allocator, and takes them back.

    Args:
        followed: the type of the device whose storages count.
        workspaces: operator -> what its kernel takes for itself meanwhile.
        inside: operator -> what it does, where that is followed too.
        where: says which part of the model computes now.
        library: what the library of matrix products keeps for itself, from the first
            product of each thread on; backward passes have a thread of their own.

    Attributes:
        peaks: of each stage that `stage_ended` named.
        requested: bytes of the storages that are there, without any rounding.
        most_requested: the most of them since the last stage ended.
        elsewhere: bytes of the storages that were made beside the device.
        pretending: what is around the inside of an operator.
    """

    def __init__(
        self,
        followed: str,
        workspaces: dict[Any, Workspace] | None = None,
        inside: dict[Any, Inside] | None = None,
        where: Callable[[], str] = str,
        library: int = 0,
    ) -> None:
        super().__init__()
        self.allocator = CachingAllocator()
        self.peaks: dict[str, Peak] = {}
        self.requested = self.most_requested = 0
        self.elsewhere = 0
        self.pretending: AbstractContextManager[Any] = nullcontext()
        self._followed, self._where = followed, where
        self._library = {False: library, True: library}
        self._making_beside = False
        self._not_here: dict[int, Any] = {}
        self._workspaces, self._inside = workspaces or {}, inside or {}
        self._alive: dict[int, Any] = {}
        self._held: list[Held] = []
        self._moment = self._peak_moment = 0
        self._highest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._inside:
            with self, self.pretending:
                return self._inside[func](*args, **kwargs)
        if func in PRODUCTS:
            backward = torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined]
            if size := self._library[backward]:
                self._library[backward] = 0
                self._take("workspaces of matrix products", size)
        taken = None
        if func in self._workspaces:
            size = self._workspaces[func](*args, **kwargs)
            taken = self._take(f"workspace of {func}", size)
        with torch._C.DisableTorchFunction():
            shaped = func in _SHAPES and args[0].is_meta
        out = (_SHAPES[func] if shaped else func)(*args, **kwargs)
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value, func)
        if taken is not None:
            self._give(*taken)
        return out

    def add(self, tensor: Tensor, name: Any = "") -> None:
        """Follow the storage of a tensor that is there.

        Args:
            tensor: any; one of another device, or that is followed, changes nothing.
            name: what it is; of an operator the part of the model stands before it.
        """
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            if storage.device.type != self._followed:
                return
            key, size = storage._cdata, storage.nbytes()
        if key in self._alive or key in self._not_here:
            return
        if self._making_beside:
            self._not_here[key] = weakref.ref(storage, self._gone(key, size))
            self.elsewhere += size
            return
        if not isinstance(name, str):
            name = f"{self._where()}: {name}".removeprefix(": ")
        block, held = self._take(name, size)

        def ended(_: Any) -> None:
            self._alive.pop(key, None)
            self._give(block, held)

        self._alive[key] = weakref.ref(storage, ended), held

    def rename(self, tensor: Tensor, name: str) -> None:
        """Say what a tensor that is followed is."""
        with torch._C.DisableTorchFunction():
            key = tensor.untyped_storage()._cdata
        if key in self._alive:
            self._alive[key][1].name = name

    @contextmanager
    def beside_the_device(self) -> Iterator[None]:
        """What is made inside is not on the device."""
        self._making_beside = True
        try:
            yield
        finally:
            self._making_beside = False

    def is_beside(self, tensor: Tensor) -> bool:
        """Whether a tensor was made beside the device."""
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self._not_here

    def _gone(self, key: int, size: int) -> Callable[[Any], None]:
        def ended(_: Any) -> None:
            self._not_here.pop(key, None)
            self.elsewhere -= size

        return ended

    def stage_ended(self, stage: str) -> None:
        """What was most since the last call belongs to this stage."""
        allocator = self.allocator
        now = self.peaks.setdefault(stage, Peak())
        if allocator.most_allocated > now.allocated:
            now.allocated, now.moment = allocator.most_allocated, self._peak_moment
        now.reserved = max(now.reserved, allocator.most_reserved)
        now.requested = max(now.requested, self.most_requested)
        allocator.forget_peaks()
        self._highest, self._peak_moment = allocator.allocated, self._moment
        self.most_requested = self.requested

    def standing(self, moment: int) -> Counter[str]:
        """Bytes by name of what was there at a moment."""
        found: Counter[str] = Counter()
        for held in self._held:
            if held.made <= moment and (held.ended is None or held.ended > moment):
                found[held.name] += held.size
        return found

    def _take(self, name: str, size: int) -> tuple[Any, Held]:
        self._moment += 1
        block = self.allocator.take(size)
        held = Held(name, size, self._moment)
        self._held.append(held)
        self.requested += size
        self.most_requested = max(self.most_requested, self.requested)
        if self.allocator.allocated > self._highest:
            self._highest, self._peak_moment = self.allocator.allocated, self._moment
        return block, held

    def _give(self, block: Any, held: Held) -> None:
        self._moment += 1
        held.ended = self._moment
        self.requested -= held.size
        self.allocator.give(block)
