"""What the guard measures: something that can be given batches, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass.

    Attributes:
        loss: mean over the counted tokens.
        gradients: of every trained tensor, by name.
    """

    loss: float
    gradients: Mapping[str, Tensor]


class Subject(Protocol):
    """A way to train a model: the reference, the baseline, or one with a lever."""

    def passed(self, batch: Any) -> Pass:
        """Forward and backward; the weights stay."""

    def learn(self, batch: Any) -> Tensor:
        """Forward, backward and update.

        Returns:
            [] the mean loss, on the device: it is not waited for.
        """

    def held_bytes(self) -> int:
        """Memory in use."""

    def synchronise(self) -> None:
        """Wait until the device has done what is queued."""

    def saved_and_loaded(self, folder: Path) -> Subject:
        """The same from a checkpoint that is written into a folder and read again."""
