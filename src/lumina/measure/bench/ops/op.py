"""An op that `lumina bench ops` measures.

A file of `lumina.measure.bench.ops.declared`, named like its op, declares it; one from
elsewhere registers itself in a plug-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName


@dataclass(frozen=True)
class Shape:
    """Of what the ops are measured on: a layer of a language model.

    Attributes:
        rows: texts side by side.
        length: tokens of each.
        hidden: width of the model.
        heads: query heads.
        kv_heads: key and value heads.
        ffn: width of a feed-forward.
        vocabulary: tokens.
        experts: of a routed layer.
        top_k: experts of a token.
    """

    rows: int = 4
    length: int = 4096
    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 8
    ffn: int = 8192
    vocabulary: int = 128256
    experts: int = 64
    top_k: int = 8

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self.rows * self.length

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads


ON_CPU = Shape(2, 256, 256, 4, 2, 512, 2048, 8, 2)
"""The shape on a CPU where none is asked for: a second for each op."""


@dataclass(frozen=True)
class Version:
    """One way of computing an op.

    Attributes:
        run: takes the inputs by name; gives the output, or changes inputs in place and
            gives None.
        needs: why it does not run on a device with inputs of a type; "" where it does.
    """

    run: Callable[..., Tensor | None]
    needs: Callable[[str, torch.dtype], str] = lambda device, dtype: ""


@dataclass(frozen=True)
class Work:
    """What an op has to do at least.

    Attributes:
        operations: floating-point ones, forward.
        moved: bytes read and written, forward: each input and output once.
        backward_operations: of the backward pass alone.
        backward_moved: of it.
    """

    operations: float
    moved: float
    backward_operations: float = 0.0
    backward_moved: float = 0.0


@dataclass(frozen=True)
class Op:
    """An op with its reference and its fast versions.

    Attributes:
        name: what `lumina bench ops` calls it.
        inputs: makes the inputs of a shape in a type, on a device, by name. Those
            that are not floating, or are float32 in every type, come so.
        reference: what all versions have to compute; run on float32 inputs.
        versions: by name.
        work: of a shape, and bytes of an element of the type.
        differentiated: inputs whose gradients are compared; none for an op that has no
            backward pass.
        in_place: inputs that the op changes, which are compared in place of an output.
    """

    name: str
    inputs: Callable[[Shape, str, torch.dtype], dict[str, Any]]
    reference: Version
    versions: Mapping[str, Version]
    work: Callable[[Shape, int], Work]
    differentiated: tuple[str, ...] = ()
    in_place: tuple[str, ...] = ()


OPS = FoundByName[Op]("lumina.measure.bench.ops.declared")
"""Every op whose file has been imported, by name."""


def register_op(op: Op) -> Op:
    """Enter an op in the table."""
    OPS[op.name] = op
    return op


def chosen_op(name: str) -> Op:
    """The op of a name.

    Raises:
        LuminaError: E005 where there is none.
    """
    op = OPS.found(name)
    if op is None:
        raise LuminaError(
            "E005", f"there is no op {name!r}", f"choose {', '.join(OPS.known())}"
        )
    return op


def normal(
    shape: tuple[int, ...], device: str, dtype: torch.dtype, scale: float = 1.0
) -> Tensor:
    """Normal numbers from the device's own generator."""
    return (torch.randn(shape, device=device) * scale).to(dtype)


def wants_cuda(device: str, dtype: torch.dtype) -> str:
    """The need of a kernel for CUDA."""
    return "" if device == "cuda" else "needs a CUDA device"


def wants_cuda_half(device: str, dtype: torch.dtype) -> str:
    """The need of a kernel for CUDA and 16 bits."""
    half = dtype in (torch.bfloat16, torch.float16)
    return wants_cuda(device, dtype) or ("" if half else "needs 16 bits")
