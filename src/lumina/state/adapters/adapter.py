"""An adapter in memory: what it changes of which weights, whichever file it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

PLAIN_LORA = ("lora", "rslora", "lora_plus", "loftq")
"""Methods that add a product of two matrices and nothing else."""


@dataclass(frozen=True)
class Piece:
    """What an adapter holds for one logical weight.

    Attributes:
        tensors: float32, by the names that its method gives them; for a stack of
            experts, each has a leading axis of the experts.
        rank: of the change; 0 where the method has none.
        alpha: the setting from which the method makes the factor of the change.
    """

    tensors: Mapping[str, Tensor]
    rank: int = 0
    alpha: float = 0.0


@dataclass(frozen=True)
class Adapter:
    """A change of a model's weights.

    Attributes:
        name: by which it is spoken of.
        method: a name of `lumina.model.adapters.table.METHODS`.
        pieces: by the logical name of the weight that each changes.
        dropout: of its input while it trained.
        options: further settings of its method.
        replaced: logical weights that it holds whole, in place of the base's.
        base: the model that it was trained on, as its file names it; None: unknown.
        base_hash: the digest of that model's weights; None: unknown.
        base_storage: the codec that held the base's matrices in training, or "".
    """

    name: str
    method: str
    pieces: Mapping[str, Piece]
    dropout: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    base: str | None = None
    base_hash: str | None = None
    base_storage: str = ""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        tensors = [t for piece in self.pieces.values() for t in piece.tensors.values()]
        return sum(tensor.numel() for tensor in (*tensors, *self.replaced.values()))
