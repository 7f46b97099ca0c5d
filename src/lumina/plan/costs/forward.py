"""What a block of a forward pass keeps, and what of the pass decides it."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.model.spec import ModelSpec

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Kept:
    """Bytes of one block, or of several.

    Attributes:
        dense: everything but the experts' buffers.
        routed: the experts' buffers: rows of tokens, copied once for each choice.
    """

    dense: int = 0
    routed: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.dense + other.dense, self.routed + other.routed)

    @property
    def total(self) -> int:
        """Both."""
        return self.dense + self.routed


@dataclass(frozen=True)
class Forward:
    """One forward pass, as far as its memory depends on it.

    Attributes:
        attention: the backend; "sdpa" and "reference" need masks for packed rows.
        cuda: kernels are CUDA's: one normalises, keeping its input and output, where
            the CPU keeps two float32 copies; dropout keeps bits, not values.
        tile: tokens that go through a feed-forward at a time; 0: all.
        groups: of heads that go back through attention one after the other.
    """

    rows: int
    compute_dtype: str = "float32"
    attention: str = "varlen"
    cuda: bool = True
    tile: int = 0
    groups: int = 1

    def at_once(self, tokens: int) -> int:
        """Those of this many tokens that go through a feed-forward together."""
        return min(tokens, self.tile) if self.tile else tokens

    def tiled(self, spec: ModelSpec) -> bool:
        """Whether its tokens are more than a tile."""
        tokens = self.rows * spec.seq_length
        return self.at_once(tokens) < tokens

    @property
    def element(self) -> int:
        """Bytes of a value in the compute type."""
        return BYTES[self.compute_dtype]

    @property
    def mask_bytes(self) -> int:
        """Bytes of a mask for each pair of a query and a key; 0 without a mask."""
        return {"sdpa": self.element, "reference": 1}.get(self.attention, 0)

    def norm(self, width: int) -> int:
        """Bytes a norm of `width` values keeps for a token."""
        copies = self.element if self.cuda else 8
        return width * (copies + self.element) + 4
