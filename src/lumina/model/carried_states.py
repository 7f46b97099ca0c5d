"""States that recurrent layers carry from chunk to chunk of a row, with gradients.

In the first passes over the chunks each state is kept as it was at the chunk's end.
When a chunk learns, it begins from the kept state of the chunk before; the gradient of
that state is added to what the chunk before minimises, in its own turn. So gradients
run back to the beginning of the row (backpropagation through time, Werbos, 1990), while
the graph of one chunk is held at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


class CarriedStates:
    """The states of the layers of one row's chunks."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], State] = {}
        self._given: dict[int, State] = {}
        self._left: dict[int, State] = {}
        self._gradients: dict[int, State] = {}
        self._begin = self._end = 0
        self._learns = False

    @property
    def layers(self) -> set[int]:
        """The layers that remember a state."""
        return {layer for layer, _ in self._kept} | self._left.keys()

    def turn(self, begin: int, end: int, learns: bool) -> None:
        """A chunk is next; the one that learned before has gone backward."""
        self._gradients = {
            layer: {
                name: value.grad
                for name, value in state.items()
                if value.grad is not None
            }
            for layer, state in self._given.items()
        }
        self._begin, self._end, self._learns = begin, end, learns
        self._given, self._left = {}, {}

    def recall(self, layer: int) -> State:
        """The state before the chunk; {} at the beginning of the row."""
        kept = self._kept.get((layer, self._begin), {})
        if not self._learns:
            return dict(kept)
        if layer not in self._given:
            self._given[layer] = {
                name: value.detach().requires_grad_(value.is_floating_point())
                for name, value in kept.items()
            }
        return dict(self._given[layer])

    def remember(self, layer: int, state: State) -> None:
        """The state after the chunk; what a recomputation leaves again is known."""
        if self._learns:
            self._left.setdefault(layer, state)
        else:
            kept = {name: value.detach() for name, value in state.items()}
            self._kept[layer, self._end] = kept

    def owed(self) -> Tensor | None:
        """What brings later chunks' gradients to the states that this chunk left.

        Returns:
            [], the sum of all numbers of these states, each times its gradient: added
            to the loss before the backward pass. None where nothing is owed.
        """
        terms = [
            (self._left[layer][name].float() * gradient.float()).sum()
            for layer, state in self._gradients.items()
            for name, gradient in state.items()
        ]
        return torch.stack(terms).sum() if terms else None
