"""The table of formats for cached keys and values; each is a file of `formats`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lumina.found_by_name import FoundByName

Piece = tuple[int, torch.dtype]
"""Width and type of one of the tensors that hold a vector."""

SAME = "auto"
"""The format that keeps vectors in the type in which the model computes."""


class Format(ABC):
    """How the vectors of keys and values are stored.

    A vector is one token's key or value in one head. Each is encoded without regard to
    any other, so that what attention sees of a token depends neither on how a prompt
    is divided nor on the other rows of a batch.

    Attributes:
        name: the value of `--kv-cache-dtype`.
        summary: what it is, in a few words.
    """

    name: str
    summary: str

    @abstractmethod
    def pieces(self, width: int, dtype: torch.dtype) -> tuple[Piece, ...]:
        """The tensors that hold a vector of `width` values of a type."""

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Vectors [..., width] as tensors [..., width of the piece]."""

    @abstractmethod
    def decode(
        self, pieces: tuple[Tensor, ...], width: int, dtype: torch.dtype
    ) -> Tensor:
        """Vectors [..., width] in a type, from what `encode` returned."""

    def bytes_of(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of a vector of `width` values of a type."""
        return sum(w * kind.itemsize for w, kind in self.pieces(width, dtype))


class Cast(Format):
    """Vectors in a floating-point type, without a scale."""

    def __init__(self, name: str, kind: torch.dtype | None, summary: str) -> None:
        self.name, self.summary, self._kind = name, summary, kind

    def pieces(self, width: int, dtype: torch.dtype) -> tuple[Piece, ...]:
        """One tensor."""
        return ((width, self._kind or dtype),)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """The values in the type of the format."""
        return (x.to(self._kind or x.dtype),)

    def decode(
        self, pieces: tuple[Tensor, ...], width: int, dtype: torch.dtype
    ) -> Tensor:
        """The values in the type asked for."""
        return pieces[0].to(dtype)


FORMATS: FoundByName[Format] = FoundByName("lumina.ops.kv_formats.formats")
"""Every format by its name."""


def register_format(entry: Format) -> None:
    """Add a format to the table."""
    FORMATS[entry.name] = entry


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        LuminaError: E005 for a name that there is not.
    """
    return FORMATS.chosen(name, f"kv-cache-dtype {name!r} does not exist")
