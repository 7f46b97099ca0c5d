"""LoHa: an elementwise product of two narrow products (arXiv:2108.06098)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lumina.model.adapters.method import Leaf, Method, Tensors
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import register
from lumina.model.tensors import ZEROS, normal


class Loha(Method):
    """W + scale * (W1a W1b) * (W2a W2b), of rank up to rank^2 (Hyeon-Woo et al.)."""

    name = "loha"
    words = "LoHa"

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """Two pairs [out, rank] and [rank, in]; the second begins at zero.

        First values as those of LyCORIS: 0.1 and 1 standard deviations.
        """
        *experts, outputs, inputs = site.shape
        *expert, output, input_ = site.axes
        tall = (*experts, outputs, rank), (*expert, output, "rank")
        wide = (*experts, rank, inputs), (*expert, "rank", input_)
        return (
            Leaf("w1_a", *tall, normal(0.1)),
            Leaf("w1_b", *wide, normal(1.0)),
            Leaf("w2_a", *tall, ZEROS),
            Leaf("w2_b", *wide, normal(1.0)),
        )

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """The product of the two products."""
        first = tensors["w1_a"].float() @ tensors["w1_b"].float()
        return scale * first * (tensors["w2_a"].float() @ tensors["w2_b"].float())


register(Loha())
