"""One declaration for each tensor of a network: what it is, before there is one.

`lumina.model.declared` lists the declarations of a model. Whatever must know the
tensors reads them there: counting, the names in files, the split of fused parameters,
first values, freezing and other formats. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]

ROLES = (
    "matrix", "embedding", "head", "norm", "bias", "expert", "router", "buffer",
    "puzzle", "adapter",
)  # fmt: skip
"""Of tensors; puzzle is the role of the table of puzzle vectors, adapter that of the
small tensors beside a matrix."""


@dataclass(frozen=True)
class TensorInfo:
    """What a logical tensor is.

    Attributes:
        role: one of `ROLES`.
        axes: the name of each dimension, outermost first.
    """

    role: str
    axes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusedPieces:
    """How a fused parameter divides into logical tensors.

    Attributes:
        dim: the dimension that is divided.
        names: full logical names, in order.
        sizes: extent of each along `dim`.
    """

    dim: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """How the first value of a tensor is made.

    Attributes:
        name: a key of `lumina.model.initial.RULES`.
        arguments: of that rule.
        fixed: whether every seed gives the same value.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    fixed: bool = False


def constant(value: float) -> Rule:
    """The same number everywhere."""
    return Rule("constant", (value,))


ZEROS, ONES = constant(0.0), constant(1.0)


def logit(share: float) -> Rule:
    """A bias under which a sigmoid starts at `share`."""
    return constant(math.log(share / (1 - share)))


def last(count: int, value: float) -> Rule:
    """Zero, but `value` in the last `count` places."""
    return Rule("last", (count, value))


def normal(std: float) -> Rule:
    """Normal around zero."""
    return Rule("normal", (std,))


def uniform(bound: float) -> Rule:
    """Uniform between -bound and bound."""
    return Rule("uniform", (bound,))


def truncated(std: float, *, fixed: bool = False) -> Rule:
    """Normal, cut at two standard deviations; `std` is that of what is left."""
    return Rule("truncated", (std,), fixed)


def made(make: Callable[..., Any]) -> Rule:
    """What `make(shape, generator)` returns; it runs in the main thread only."""
    return Rule("made", (make,))


def orthogonal(std: float) -> Rule:
    """Rows at right angles, each of the length std * sqrt(columns)."""
    return Rule("orthogonal", (std,))


@dataclass(frozen=True)
class Piece:
    """One of the logical tensors that a fused parameter is divided into.

    Attributes:
        name: full logical name.
        size: extent along the dimension that is divided.
        axis: the name of that dimension.
    """

    name: str
    size: int
    axis: str


@dataclass(frozen=True)
class Declared:
    """A tensor of a network.

    Attributes:
        name: as in `Network.named_parameters()` or `named_buffers()`.
        shape: of the whole tensor.
        role: one of `ROLES`.
        axes: the name of each dimension, outermost first.
        first: how its first value is made, from the seed and its name alone.
        dim: the dimension that `pieces` divide.
        pieces: the logical tensors that a fused parameter is in files; () where the
            tensor is one already.
        kind: "parameter"; "buffer", which is in checkpoints too; or "transient", a
            buffer that is in none.
        used: (k, n), where a token uses k of n equal parts of all tensors with the same
            `used`, as of experts.
        sparse: whether a step uses a few rows of it: only their gradient is kept, no
            optimizer state is, and the tensor stays whole on every rank.
    """

    name: str
    shape: Shape
    role: str
    axes: tuple[str, ...]
    first: Rule
    dim: int = 0
    pieces: tuple[Piece, ...] = ()
    kind: str = "parameter"
    used: tuple[int, int] = (1, 1)
    sparse: bool = False

    def __post_init__(self) -> None:
        """Refuse a declaration that contradicts itself.

        Raises:
            ValueError: for an unknown role, a dimension without a name, or pieces that
                are not the whole.
        """
        if self.role not in ROLES or len(self.axes) != len(self.shape):
            raise ValueError(
                f"{self.name} of shape {self.shape} cannot be {self.role!r} with axes "
                f"{self.axes}; roles are {', '.join(ROLES)}"
            )
        if self.pieces:
            total = sum(piece.size for piece in self.pieces)
            if total != self.shape[self.dim]:
                raise ValueError(f"the pieces of {self.name} are not the whole of it")

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def saved(self) -> bool:
        """Whether checkpoints hold it."""
        return self.kind != "transient"

    @property
    def logical_names(self) -> tuple[str, ...]:
        """The names that it has in files."""
        return tuple(piece.name for piece in self.pieces) or (self.name,)

    def logical(self) -> dict[str, tuple[Shape, TensorInfo]]:
        """Shape, role and axes of each of its logical tensors, by logical name."""
        if not self.pieces:
            return {self.name: (self.shape, TensorInfo(self.role, self.axes))}
        found = {}
        before, after = slice(self.dim), slice(self.dim + 1, None)
        for piece in self.pieces:
            shape = (*self.shape[before], piece.size, *self.shape[after])
            axes = (*self.axes[before], piece.axis, *self.axes[after])
            found[piece.name] = (shape, TensorInfo(self.role, axes))
        return found


Tensors = dict[str, Declared]
"""Declarations by name, as kinds put them together."""


def add(tensors: Tensors, *declared: Declared) -> None:
    """Add declarations, or replace those of the same names."""
    tensors.update((one.name, one) for one in declared)


def remove(tensors: Tensors, path: str) -> None:
    """Take away all declarations of the module at `path`."""
    for name in [name for name in tensors if name.startswith(f"{path}.")]:
        del tensors[name]
