"""What a codec is: matrices to few bits and back. Plain torch, on any device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName

Shape = tuple[int, ...]

Parts = dict[str, tuple[Shape, torch.dtype]]
"""Shape and type of each tensor that holds a matrix."""


@dataclass(frozen=True)
class Packed:
    """A matrix [out, in], or one for each expert [E, out, in], in few bits.

    Attributes:
        codec: the name of the codec that packed it.
        shape: of the matrix.
        tensors: what holds it, by the names of `Codec.parts`.
    """

    codec: str
    shape: Shape
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def unpacked(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix in `dtype`."""
        return found_codec(self.codec).unpack(self, dtype)


def stacked(packed: Sequence[Packed]) -> Packed:
    """Matrices that are alike, such as those of experts, as one with a new first axis.

    Args:
        packed: one or more, of one codec and shape.
    """
    first = packed[0]
    tensors = {
        name: torch.stack([one.tensors[name] for one in packed])
        for name in first.tensors
    }
    return Packed(first.codec, (len(packed), *first.shape), tensors)


AT_ONCE = 2**18
"""Numbers that are encoded at a time: working memory is a few times as much."""


def by_rows(
    encode: Callable[[Tensor], dict[str, Tensor]], matrix: Tensor
) -> dict[str, Tensor]:
    """What `encode` makes of a matrix, a few rows at a time.

    Args:
        encode: rows [R, in] to tensors [R, ...].
        matrix: [..., out, in].

    Returns:
        Tensors [..., out, ...].
    """
    rows = matrix.flatten(0, -2)
    count = max(1, AT_ONCE // max(1, matrix.shape[-1]))
    found: dict[str, Tensor] = {}
    for begin in range(0, rows.shape[0], count):
        for name, part in encode(rows[begin : begin + count]).items():
            if name not in found:
                found[name] = part.new_empty((rows.shape[0], *part.shape[1:]))
            found[name][begin : begin + count] = part
    return {
        name: whole.unflatten(0, matrix.shape[:-1]) for name, whole in found.items()
    }


def finite(matrix: Tensor) -> Tensor:
    """The matrix itself.

    Raises:
        LuminaError: E303 for values that are not finite.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise LuminaError(
            "E303",
            "a matrix has values that are not finite and cannot be held in few bits",
            "these weights are damaged; start from other ones",
        )
    return matrix


def relative_error(matrix: Tensor, packed: Packed) -> float:
    """Root mean square of what packing changed, over that of the matrix.

    Args:
        matrix: as it was packed.
        packed: what became of it.

    Returns:
        0 for a matrix of zeros.
    """
    apart = packed.unpacked().sub_(matrix).norm()
    size = matrix.float().norm()
    return float(apart / size) if size > 0 else 0.0


class Codec:
    """How matrices are held in few bits.

    A matrix is packed row by row: each row has scales of its own, so experts and rows
    can be taken apart without rounding anything anew.

    Attributes:
        name: of the table's entry and of its file.
        bits: of one code.
        summary: one line for people.
        rounds_inputs: its `linear` rounds what it multiplies, so that a product is not
            that of the wide matrix.
    """

    name: str
    bits: int
    summary: str
    rounds_inputs: bool = False

    def parts(self, shape: Shape) -> Parts:
        """The tensors that hold a matrix of this shape."""
        raise NotImplementedError

    def encode(self, matrix: Tensor) -> dict[str, Tensor]:
        """The tensors that hold a matrix [..., out, in] of any floating type.

        Raises:
            LuminaError: E303 for values that are not finite.
        """
        return by_rows(lambda rows: self.encode_rows(finite(rows).float()), matrix)

    def encode_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """The tensors [R, ...] that hold rows [R, in] of float32, each on its own."""
        raise NotImplementedError

    def decode(
        self, tensors: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype
    ) -> Tensor:
        """The inverse of `encode`, in `dtype`."""
        raise NotImplementedError

    def decode_into(self, tensors: Mapping[str, Tensor], out: Tensor) -> None:
        """`decode` into memory that is there, [..., out, in]."""
        out.copy_(self.decode(tensors, tuple(out.shape), out.dtype))

    def pack(self, tensor: Tensor) -> Packed:
        """The matrix that this codec holds nearest to a tensor.

        Args:
            tensor: [..., out, in], of any floating type.

        Raises:
            LuminaError: E005 for a tensor of fewer than two dimensions, E303 for values
                that are not finite: one of them would spoil a whole group.
        """
        if tensor.ndim < 2:
            raise LuminaError(
                "E005",
                f"a tensor of shape {list(tensor.shape)} cannot be held as {self.name}",
                "codecs hold matrices [..., out, in]",
            )
        tensor = tensor.detach()
        return Packed(self.name, tuple(tensor.shape), self.encode(tensor))

    def unpack(self, packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix in `dtype`."""
        return self.decode(packed.tensors, packed.shape, dtype)

    def bytes_of(self, shape: Shape) -> int:
        """Bytes of all tensors that hold a matrix of this shape."""
        return sum(
            math.prod(one) * dtype.itemsize for one, dtype in self.parts(shape).values()
        )

    def rounded_inputs(self, x: Tensor) -> Tensor:
        """The inputs [..., in] that `linear` multiplies, in their own type."""
        return x

    def linear(self, x: Tensor, packed: Packed) -> Tensor:
        """[..., in] to [..., out] in the type of `x`, by plain operations."""
        return torch.nn.functional.linear(x, self.unpack(packed, x.dtype))


CODECS: FoundByName[Codec] = FoundByName("lumina.ops.low_bits.codecs")
"""The codecs by name."""


def register_codec(cls: Any) -> Any:
    """A class decorator: an object of the class becomes the entry of its name."""
    CODECS[cls.name] = cls()
    return cls


def found_codec(name: str) -> Codec:
    """The codec of a name.

    Raises:
        LuminaError: E005 where there is none.
    """
    return CODECS.chosen(name, f"there is no codec {name!r} of weights in few bits")
