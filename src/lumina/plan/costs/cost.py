"""The protocol of what models of one kind cost, in operations and in bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from lumina.model.spec import ModelSpec
from lumina.plan.costs.forward import Forward, Kept
from lumina.plan.costs.layout import Layout
from lumina.plan.count import Counts


class Share(NamedTuple):
    """The share of the tokens that go through the two branches of a block."""

    attention: float = 1.0
    feedforward: float = 1.0


KeptBy = Callable[[ModelSpec, Forward, int, str], Kept]
"""What a block keeps: of a shape, in a forward pass, a layer, under a mode."""

Components = Callable[[ModelSpec, Layout], dict[str, int]]
"""The components of a step's memory, but for the overhead."""


class Cost:
    """What models of one kind cost beyond plain transformers, or in their place.

    Attributes:
        field: of `ModelSpec`, which holds what this kind adds.
    """

    field: str = ""

    def applies(self, spec: ModelSpec) -> bool:
        """Whether a model is of this kind."""
        return getattr(spec, self.field) is not None

    # Operations.

    def flops(self, spec: ModelSpec, counts: Counts) -> float | None:
        """All operations of a token, where they are counted in another way."""
        return None

    def further_flops(self, spec: ModelSpec) -> float:
        """Operations of a token that no parameter has a part in."""
        return 0.0

    def efficiency(
        self, on_gpu: bool, compiled: bool
    ) -> tuple[float, float, float] | None:
        """Low, likely and high part of the peak that steps reach, where it is known."""
        return None

    def attending(self, spec: ModelSpec) -> int:
        """Layers that look at all earlier tokens with Lumina's attention."""
        return spec.num_layers

    def cached_layers(self, spec: ModelSpec) -> int:
        """Keys and values that a token leaves in generation, at most."""
        return self.attending(spec)

    def share(self, spec: ModelSpec, layer: int) -> Share | None:
        """The tokens of a block, where it does not take all."""
        return None

    def repeats(self, spec: ModelSpec) -> list[float]:
        """Tokens in each further pass of the inner blocks, over all of a row."""
        return []

    def repeats_keys(self, spec: ModelSpec) -> bool:
        """Whether further passes make keys of their own."""
        return True

    # Bytes.

    def components(
        self, spec: ModelSpec, layout: Layout, plain: Components
    ) -> dict[str, int] | None:
        """The components of a step's memory, where blocks alone do not give them.

        Args:
            spec: the shape.
            layout: of the step.
            plain: the components of another shape.
        """
        return None

    def kept(
        self, spec: ModelSpec, forward: Forward, layer: int, mode: str, plain: KeptBy
    ) -> Kept | None:
        """What a block keeps, where this kind changes the whole block.

        Args:
            spec: the shape.
            forward: the forward pass.
            layer: of the block.
            mode: of checkpointing.
            plain: what a block of another shape keeps.
        """
        return None

    def kept_by_feedforward(
        self, spec: ModelSpec, forward: Forward, layer: int, mode: str
    ) -> Kept | None:
        """What a feed-forward keeps, where it is of this kind."""
        return None

    def kept_beside(
        self, spec: ModelSpec, forward: Forward, mode: str, plain: KeptBy
    ) -> Kept:
        """What is kept beside one pass through every block; arguments as `kept`."""
        return Kept()

    def exact(self, spec: ModelSpec, layout: Layout) -> int:
        """Bytes that a feed-forward keeps as they are, whatever the bits of others."""
        return 0

    def working_values(self, spec: ModelSpec, tokens: int) -> int:
        """Values of the widest gradient while a feed-forward of this kind goes back."""
        return 0

    def working(self, spec: ModelSpec, forward: Forward) -> int:
        """Bytes of gradients while a block of this kind goes back."""
        return 0

    def heads(self, spec: ModelSpec) -> int:
        """Linear heads."""
        return 1

    def hidden_copies(self, spec: ModelSpec) -> int:
        """Gradients of all hidden states that the loss holds at once."""
        return 1

    def alike(self, spec: ModelSpec, layer: int) -> Hashable:
        """Blocks for which this is equal keep equally much."""
        return None
