"""Tensors without memory that take themselves for tensors of a device.

They are tensors of PyTorch's meta device: operators compute their shapes and nothing
else. What asks such a tensor where it is gets the device of the Plan as an answer, and
what is to be made on that device is made without memory. So a Program builds itself
and trains as it would there, without the device being present.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lumina.train.planned_memory import kernels
from lumina.train.planned_memory.following import Following

if TYPE_CHECKING:
    from lumina.ops.attention.pieces import Document

META = torch.device("meta")


class UntraceableError(Exception):
    """Something whose memory depends on values, which tensors without memory lack."""


_READS_VALUES = (
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__,
    Tensor.__index__, Tensor.nonzero, torch.nonzero, Tensor.cpu, Tensor.numpy,
)  # fmt: skip

BYTES = torch.uint8

_TAKE_HOOKS = (Tensor.register_hook, Tensor.register_post_accumulate_grad_hook)


class Pretended(TorchFunctionMode):
    """Inside, tensors without memory are on a device.

    Args:
        device: the one that they take themselves for.
        following: is told what is made in host memory.
    """

    def __init__(self, device: torch.device, following: Following) -> None:
        super().__init__()
        self.device, self.following = device, following
        self._answers: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: self._device_of,  # type: ignore[attr-defined]
            Tensor.is_cuda.__get__: self._is_cuda,  # type: ignore[attr-defined]
            Tensor.is_cpu.__get__: self._is_cpu,  # type: ignore[attr-defined]
            Tensor.is_meta.__get__: lambda x: False,  # type: ignore[attr-defined]
            Tensor.pin_memory: lambda x, *_: x,
            Tensor.is_pinned: lambda x, *_: False,
        }
        if device.type == "cuda":
            self._kernels: dict[Any, Callable[..., Any]] = {
                F.rms_norm: kernels.rms_norm,
                torch.rms_norm: kernels.rms_norm,
                F.dropout: kernels.dropout,
                F.scaled_dot_product_attention: kernels.cuda_attention,
            }
        else:
            self._kernels = {F.scaled_dot_product_attention: kernels.cpu_attention}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        try:
            answer = self._answers.get(func)
        except TypeError:  # not hashable
            answer = None
        if answer is not None and args and isinstance(args[0], Tensor):
            return answer(*args, **kwargs)
        if func in _READS_VALUES and self._without_memory(args[0]):
            raise UntraceableError(f"{func.__name__} of a tensor is asked for")
        if func is Tensor.data_ptr and self._without_memory(args[0]):
            with torch._C.DisableTorchFunction():
                return int(args[0].untyped_storage()._cdata)
        if func in self._kernels:
            with self:
                return self._kernels[func](*args, **kwargs)
        if func in _TAKE_HOOKS:
            return func(args[0], self.around(args[1]), *args[2:], **kwargs)
        return self._made(func, args, kwargs)

    def around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """A function that a backward pass calls, where modes of functions are off."""

        def called(*args: Any, **kwargs: Any) -> Any:
            with self:
                return inner(*args, **kwargs)

        return called

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call a function with the devices that tensors really have."""
        pinned = kwargs.pop("pin_memory", False)
        if pinned and func is not torch.tensor:
            kwargs["device"] = META
            with self.following.beside_the_device():
                return func(*args, **kwargs)
        if "device" in kwargs:
            kwargs["device"] = self._real(kwargs["device"])
        if func is Tensor.cuda:
            return args[0].to(META)
        args = tuple(
            self._real(one)
            if isinstance(one, torch.device) or (func is Tensor.to and type(one) is str)
            else one
            for one in args
        )
        if func is Tensor.to and self._without_memory(args[0]):
            self._check_stays(args, kwargs)
        if func is Tensor.copy_ and self._copies_away(*args[:2]):
            return args[0]  # the host keeps what it has
        return func(*args, **kwargs)

    def _copies_away(self, into: Tensor, value: Any) -> bool:
        return self._without_memory(value) and not self._without_memory(into)

    def _check_stays(self, args: Any, kwargs: dict[str, Any]) -> None:
        devices = [x for x in (*args[1:], kwargs.get("device")) if x is not None]
        if any(isinstance(x, torch.device) and x.type == "cpu" for x in devices):
            raise UntraceableError("a tensor is read back to the host")

    def _real(self, device: Any) -> Any:
        """Where tensors of a device really are."""
        if device is None or isinstance(device, int):
            return device
        kind = device.type if isinstance(device, torch.device) else str(device)
        return META if kind.split(":")[0] == self.device.type else device

    @staticmethod
    def _without_memory(x: Any) -> bool:
        with torch._C.DisableTorchFunction():
            return isinstance(x, Tensor) and x.is_meta

    def _here(self, x: Tensor) -> bool:
        return self._without_memory(x) and not self.following.is_beside(x)

    def _device_of(self, x: Tensor) -> torch.device:
        if self._here(x):
            return self.device
        with torch._C.DisableTorchFunction():
            return torch.device("cpu") if x.is_meta else x.device

    def _is_cuda(self, x: Tensor) -> bool:
        return self.device.type == "cuda" and self._here(x)

    def _is_cpu(self, x: Tensor) -> bool:
        return self._device_of(x).type == "cpu"


class _Now:
    """An executor whose work is done when it is handed in."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Do it, in this thread, where tensors without memory are known."""
        future: Future[Any] = Future()
        try:
            future.set_result(job(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing is under way."""


class _Stream:
    """A stream of a device that is not there: everything happens in order."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record_event(self, *_: Any) -> _Stream:
        return self

    def wait_stream(self, *_: Any) -> None:
        pass

    wait_event = synchronize = record = wait = wait_stream


@contextmanager
def pretended(device: torch.device, following: Following) -> Iterator[None]:
    """A place where a Program can be built and trained without its device.

    Args:
        device: the one that is pretended.
        following: of the tensors.
    """
    from lumina.model import host_table
    from lumina.ops.attention import blockwise
    from lumina.ops.moe import segments
    from lumina.optim.paging import transport

    with ExitStack() as stack:

        def put(where: Any, name: str, what: Any) -> None:
            stack.enter_context(mock.patch.object(where, name, what))

        put(segments, "segments_mm", _even_segments)
        put(blockwise, "_extremes", _halves)
        put(host_table, "gathered", _rows_of_table)
        put(blockwise, "documents_of", _two_documents)
        put(transport, "ThreadPoolExecutor", _Now)
        if device.type == "cuda":
            _with_kernels(put, stack)
        mode = Pretended(device, following)
        following.pretending = mode
        _in_backward_passes(mode, put)
        with mode:
            yield


def _in_backward_passes(mode: Pretended, put: Callable[[Any, str, Any], None]) -> None:
    """Let the mode hold in what backward passes call: functions, and what unpacks."""
    function, hooks = torch.autograd.function.BackwardCFunction, saved_tensors_hooks
    apply, init = function.apply, hooks.__init__

    def applied(self: Any, *args: Any) -> Any:
        with mode:
            return apply(self, *args)

    def made(self: Any, pack: Any, unpack: Any) -> None:
        init(self, mode.around(pack), mode.around(unpack))

    put(function, "apply", applied)
    put(hooks, "__init__", made)


def _with_kernels(put: Callable[[Any, str, Any], None], stack: ExitStack) -> None:
    """The kernels written in Triton, and streams."""
    from lumina.ops.cross_entropy import chunked
    from lumina.ops.low_bits import fast
    from lumina.optim import small_moments
    from lumina.optim.methods import adamw
    from lumina.optim.paging import home

    for module in (chunked, fast, small_moments, adamw):
        put(module, "has_triton", lambda: True)
    written: dict[str, dict[str, Any]] = {
        "lumina.ops.cross_entropy.fused": {
            "softmax_gradient": kernels.softmax_gradient
        },
        "lumina.ops.adamw.fused": {"adamw_": kernels.nothing},
        "lumina.ops.low_bits.fused": dict.fromkeys(
            ("nf4_into", "integers_into", "rows_into"), kernels.nothing
        ),
    }
    modules = {}
    for name, functions in written.items():
        module = ModuleType(name)
        vars(module).update(functions)
        modules[name] = module
        # Where Triton is installed, its package may have the real one by now.
        package = importlib.import_module(name.rpartition(".")[0])
        stack.enter_context(mock.patch.object(package, "fused", module, create=True))
    stack.enter_context(mock.patch.dict(sys.modules, modules))
    put(home, "locked", lambda size: torch.zeros(size, dtype=BYTES, pin_memory=True))
    put(Tensor, "record_stream", lambda *_: None)
    put(torch.cuda, "Stream", _Stream)
    put(torch.cuda, "Event", _Stream)
    put(torch.cuda, "stream", lambda _: ExitStack())
    put(torch.cuda, "current_stream", lambda *_: _Stream())
    put(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
    put(torch.cuda, "set_rng_state", lambda *_: None)
    put(torch.cuda, "synchronize", lambda *_: None)


def _even_segments(x_nd: Tensor, weight: Tensor, offsets_e: Tensor) -> Tensor:
    """`segments_mm` where each expert has as many rows as any other."""
    from lumina.ops.moe.segments import _product

    rows, experts = x_nd.shape[0], weight.shape[0]
    sizes = [rows // experts + (i < rows % experts) for i in range(experts)]
    parts = [
        _product(part, one)
        for part, one in zip(x_nd.split(sizes), weight.unbind(0), strict=True)
        if part.shape[0]
    ]
    return torch.cat(parts)


def _halves(
    starts: Tensor | None, size: int, blocks: int
) -> tuple[list[int], list[int]]:
    """Where documents begin in rows of two halves (`steps.packed_rows`)."""
    if starts is None:
        return [0] * blocks, [0] * blocks
    length = starts.shape[1]
    half = max(1, length // 2)
    first = [half if i * size >= half else 0 for i in range(blocks)]
    last = [half if min((i + 1) * size, length) > half else 0 for i in range(blocks)]
    return first, last


def _two_documents(starts: Tensor | None, queries: int) -> list[Document]:
    """The documents of rows of two halves."""
    from lumina.ops.attention.pieces import Document

    if starts is None:
        return [Document(None, 0, queries, 0)]
    half = max(1, queries // 2)
    parts = [(0, half, 0), (half, queries, half)]
    return [Document(row, *part) for row in range(len(starts)) for part in parts]


def _rows_of_table(weight_vd: Tensor, ids: Tensor) -> Tensor:
    """What `host_table.gathered` gives, without reading the tokens."""
    return ids.new_empty((*ids.shape, weight_vd.shape[1]), dtype=weight_vd.dtype)
