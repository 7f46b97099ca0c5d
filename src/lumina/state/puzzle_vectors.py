"""Vectors of puzzles for another number of puzzles than they were trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lumina.model.kinds.puzzle import VECTORS
from lumina.state.weights import Weights


@dataclass(frozen=True)
class Fitted:
    """A source of weights whose table of vectors has `count` rows.

    Identifiers that both know keep their vector, the others start at 0.
    """

    source: Any
    count: int

    def names(self) -> list[str]:
        """Logical names."""
        found: list[str] = self.source.names()
        return found

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        held: Tensor = self.source.tensor(name)
        if name != VECTORS:
            return held
        table = held.new_zeros((self.count, held.shape[1]))
        common = min(self.count, len(held))
        table[:common] = held[:common]
        return table

    def close(self) -> None:
        """Release the files."""
        self.source.close()


def fitted_vectors(weights: Weights, count: int) -> tuple[Weights, str]:
    """The weights for this many puzzle identifiers, and what was taken, in words."""
    assert weights.spec.hrm is not None
    held = weights.spec.hrm.num_puzzles
    summary = f"all weights of {weights.description}"
    if held != count:
        summary += f", but {min(held, count):,} of {count:,} vectors of puzzles"
        if held < count:
            summary += "; the others start at 0"
    spec = replace(weights.spec, hrm=replace(weights.spec.hrm, num_puzzles=count))
    return replace(weights, spec=spec, source=Fitted(weights.source, count)), summary
