"""IA3: learned factors on keys, values and inner activations (arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lumina.model.adapters.method import Asked, Leaf, Method, Tensors
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import register
from lumina.model.tensors import ONES


class Ia3(Method):
    """Row i of W times `factors` [out]; of `down_proj`, column j by `factors_in` [in].

    The matrix that leads out of the feed-forward takes the factors on its input, which
    are the inner activations (Liu et al., 2022).
    """

    name = "ia3"
    words = "IA3"
    needs_base = True

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """One vector, which begins at one."""
        dropped = -2 if site.piece == "down_proj" else -1
        shape, axes = list(site.shape), list(site.axes)
        del shape[dropped], axes[dropped]
        name = "factors_in" if dropped == -2 else "factors"
        return (Leaf(name, tuple(shape), tuple(axes), ONES),)

    def scale(self, alpha: float, rank: int) -> float:
        """There is none."""
        return 1.0

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """(factors - 1) W."""
        assert base is not None
        if "factors_in" in tensors:
            return (tensors["factors_in"].float() - 1).unsqueeze(-2) * base
        return (tensors["factors"].float() - 1).unsqueeze(-1) * base

    def entering(self, tensors: Tensors) -> Tensor | None:
        """The factors on the input, less one; experts have several."""
        factors = tensors.get("factors_in")
        return None if factors is None or factors.ndim > 1 else factors - 1

    def change(self, asked: Asked) -> Tensor:
        """(factors - 1) of the base's own output, and so of its bias."""
        factors = asked.tensors.get("factors")
        if factors is None or factors.ndim > 1:
            return super().change(asked)
        return (factors - 1).to(asked.y.dtype) * asked.y


register(Ia3())
