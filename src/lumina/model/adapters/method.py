"""The protocol of a method of adapting a matrix, and the table of methods.

A method says which small tensors stand beside a matrix W [out, in], and what they
change. `delta` is the reference: the dense change of W in float32. `change` computes
what the same change adds to W x, and may do it without the dense matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lumina.model.adapters.sites import Site
from lumina.model.tensors import Rule, Shape

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
"""The tensors of an adapter on one matrix, by their short names."""


@dataclass(frozen=True)
class Leaf:
    """One tensor that a method puts beside a matrix.

    Attributes:
        name: short, such as "a".
        shape: whole; the expert axis first where there is one.
        axes: the name of each dimension.
        first: how its first value is made.
        kind: "parameter", or "buffer": in checkpoints, but not trained.
    """

    name: str
    shape: Shape
    axes: tuple[str, ...]
    first: Rule
    kind: str = "parameter"


@dataclass(frozen=True)
class Asked:
    """What a method computes with in one forward pass.

    Attributes:
        x: [..., in] input of the adapter, after dropout.
        y: [..., out] what the base made of the input, its bias included.
        tensors: of the adapter.
        scale: factor on what it adds.
        product: `product(x, w)` multiplies rows x [..., in] by w [out, in]; of experts
            each row by the matrix of its expert, w [experts, out, in].
        base: gives W in a type that the device multiplies; a packed matrix is unpacked.
        bias: [out] of the base, or None.
    """

    x: Tensor
    y: Tensor
    tensors: Tensors
    scale: float
    product: Callable[[Tensor, Tensor], Tensor]
    base: Callable[[], Tensor]
    bias: Tensor | None


class Training:
    """All tensors of one adapter in a training step, for methods that watch it.

    Args:
        tensors: path -> the adapter's tensors on one matrix, as the network has them.
        slots: the trained parameters by name, with `master` and `gradient()`.
        steps: of the whole run.
    """

    def __init__(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        slots: Mapping[str, Any],
        steps: int,
    ) -> None:
        self.tensors = tensors
        self.steps = steps
        self._slots = slots

    def master(self, name: str) -> Tensor:
        """The float32 weights of a tensor."""
        master: Tensor = self._slots[name].master
        return master

    def gradient(self, name: str) -> Tensor | None:
        """Its gradient over all ranks, which may be changed in place."""
        gradient: Tensor | None = self._slots[name].gradient()
        return gradient


class Method:
    """A way of adapting a matrix. What is written here adds the dense change.

    Attributes:
        name: as `--peft-method` takes it.
        words: in a few words, for the plan.
        needs_base: whether `delta` reads the base matrix.
        starts_from_base: whether `start` makes first values from the base matrix.
        watches: whether `gradients` and `after` are called in each training step.
    """

    name = ""
    words = ""
    needs_base = False
    starts_from_base = False
    watches = False

    def first_rank(self, rank: int) -> int:
        """The rank to begin with, for the one that was asked for."""
        return rank

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """The tensors beside a matrix."""
        raise NotImplementedError

    def scale(self, alpha: float, rank: int) -> float:
        """The factor on what is added."""
        return alpha / rank

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """The change of the matrix: float32, [out, in] or [experts, out, in].

        Args:
            tensors: of the adapter.
            scale: as of `scale`.
            base: the matrix in float32, where `needs_base` is set.
        """
        raise NotImplementedError

    def change(self, asked: Asked) -> Tensor:
        """What the adapter adds to `asked.y`, [..., out], in its type."""
        base = asked.base().float() if self.needs_base else None
        delta = self.delta(asked.tensors, asked.scale, base)
        return asked.product(asked.x, delta)

    def factors(self, tensors: Tensors) -> tuple[Tensor, Tensor] | None:
        """(A [rank, in], B [out, rank]) where `delta` is scale * B A, or None.

        Such a change needs no operation of its own (`lumina.ops.low_bits.adapted`).
        """
        return None

    def entering(self, tensors: Tensors) -> Tensor | None:
        """What is added to the factor 1 on the input of the whole matrix, or None."""
        return None

    def start(
        self, tensors: Tensors, scale: float, base: Tensor, held: Tensor
    ) -> dict[str, Tensor]:
        """First values that depend on the base matrix, by short name.

        Args:
            tensors: with the values that `Leaf.first` gives, float32.
            scale: as of `scale`.
            base: the matrix, float32.
            held: the matrix as its layer holds it, which may be in few bits; float32.
        """
        return {}

    def gradients(self, training: Training, divisor: Tensor, skip: Tensor) -> None:
        """Look at the gradients of a step, before the update; may change them.

        Args:
            training: the adapter's tensors.
            divisor: [] what the gradients are divided by for the update.
            skip: [] 1.0 where they are not finite, and nothing is updated.
        """

    def after(self, training: Training) -> None:
        """Change the adapter's tensors after an update."""

    def rate(self, leaf: str, options: Mapping[str, Any]) -> float:
        """What the learning rate of one of its tensors is multiplied by."""
        return 1.0
