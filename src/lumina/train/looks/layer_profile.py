"""What each block costs: time forward and back, memory that it keeps, operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumina.plan.flops import layer_flops
from lumina.train.looks.step_times import Marks
from lumina.train.watch import Look, register_look

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.data.stream import StepBatches


@register_look
class LayerProfile(Look):
    """Times the blocks of the step itself, from outside: each is called as it is.

    On the way back a block takes from the moment at which the gradient of its output is
    there to that at which the gradient of its input is.
    """

    name = "layer_profile"

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        self._marks = Marks(program.device.type == "cuda")
        whole = sum(batch.labels.numel() for batch in batches.micro_batches)
        self._tokens = whole // program.mesh.sequence.size
        self._blocks = list(program.network.backbone.blocks)
        self._forward: list[tuple[int, Any, Any]] = []
        self._backward: list[list[Any]] = []
        self._kept = [0] * len(self._blocks)
        self._seen: set[int] = set()  # storages that a pass keeps and are counted
        self._undo: list[Callable[[], None]] = []

    def mark(self, moment: str) -> None:
        """Wrap the blocks for the length of the forward and backward passes."""
        if moment == "begin":
            for layer in range(len(self._blocks)):
                self._wrap(layer)
        elif moment == "backward":
            self._seen.clear()
        elif moment == "optimizer":
            self._unwrap()

    def judged(self, scale: Tensor) -> None:
        """The blocks are done."""
        self._unwrap()

    def _wrap(self, layer: int) -> None:
        block = self._blocks[layer]
        # A compiled block is called past its `forward`; both are on the instance.
        compiled = block._compiled_call_impl
        name = "forward" if compiled is None else "_compiled_call_impl"
        own = name in vars(block)
        inner = getattr(block, name)
        object.__setattr__(block, name, self._timed(layer, inner, compiled is None))

        def undo() -> None:
            if own:
                object.__setattr__(block, name, inner)
            else:
                object.__delattr__(block, name)

        self._undo.append(undo)

    def _unwrap(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _timed(
        self, layer: int, inner: Callable[..., Any], eager: bool
    ) -> Callable[..., Any]:
        def call(x: Tensor, *rest: Any) -> Any:
            counting = self._counting(layer, eager, rest)
            begin = self._marks.now()
            before = torch.cuda.memory_allocated() if self._marks.cuda else 0
            with counting:
                found = inner(x, *rest)
            if self._marks.cuda:
                self._kept[layer] += torch.cuda.memory_allocated() - before
            self._forward.append((layer, begin, self._marks.now()))
            out = found[0] if isinstance(found, tuple) else found
            if out.requires_grad:
                spent = [layer, None, None]
                self._backward.append(spent)
                self._when_there(out, spent, 1)
                if x.requires_grad:
                    self._when_there(x, spent, 2)
            return found

        return call

    def _when_there(self, tensor: Tensor, spent: list[Any], place: int) -> None:
        """Note the moment at which the gradient of a tensor is there."""

        def note(_: Tensor) -> None:
            spent[place] = self._marks.now()

        tensor.register_hook(note)

    def _counting(
        self, layer: int, eager: bool, rest: tuple[Any, ...]
    ) -> AbstractContextManager[Any]:
        """On a CPU, count the bytes that a block keeps for its backward pass.

        Its weights, and what it shares with other blocks, do not count.
        """
        if self._marks.cuda or not eager:
            return nullcontext()
        shared = [*self._blocks[layer].parameters(), *_tensors_in(rest)]
        self._seen.update(one.untyped_storage().data_ptr() for one in shared)

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._seen:
                self._seen.add(storage.data_ptr())
                self._kept[layer] += storage.nbytes()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """Lists by layer, see docs/metrics.md."""
        count = len(self._blocks)
        forward, backward = [0.0] * count, [0.0] * count
        for layer, begin, end in self._forward:
            forward[layer] += self._marks.seconds(begin, end)
        for layer, begin, end in self._backward:
            if begin is not None and end is not None:
                backward[layer] += self._marks.seconds(begin, end)
        flops = [one * self._tokens for one in layer_flops(self.program.plan.spec)]
        times = [one + other for one, other in zip(forward, backward, strict=True)]
        known = self._marks.cuda or not self.program.plan.compile
        return {
            "layers.forward_time": forward,
            "layers.backward_time": backward,
            "layers.memory_allocated": list(self._kept) if known else None,
            "layers.flops": flops,
            "layers.bottleneck_score": bottleneck_scores(flops, times),
        }


def _tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors among values, and in the fields of those that have any."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif is_dataclass(value):
            yield from _tensors_in(getattr(value, one.name) for one in fields(value))


def bottleneck_scores(flops: Sequence[float], times: Sequence[float]) -> list[float]:
    """How far each layer is behind the fastest one for its work, from 0 to 1.

    1 - (its operations in a second) / (those of the layer that does most in a second).
    """
    speeds = [
        one / seconds if seconds > 0 else 0.0
        for one, seconds in zip(flops, times, strict=True)
    ]
    best = max(speeds, default=0.0)
    return [1 - speed / best if best > 0 else 0.0 for speed in speeds]
