"""LoRA: a product of two narrow matrices (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lumina.model.adapters.method import Asked, Leaf, Method, Tensors
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import register
from lumina.model.tensors import ZEROS, uniform


class Lora(Method):
    """W + scale * B A: A [rank, in] begins random, B [out, rank] at zero."""

    name = "lora"
    words = "LoRA"

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """A and B, for each expert apart."""
        *experts, outputs, inputs = site.shape
        *expert, output, input_ = site.axes
        # The usual start of a linear layer: uniform within 1 / sqrt(in).
        first = uniform(1 / math.sqrt(inputs))
        return (
            Leaf("a", (*experts, rank, inputs), (*expert, "rank", input_), first),
            Leaf("b", (*experts, outputs, rank), (*expert, output, "rank"), ZEROS),
        )

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """scale * B A."""
        return scale * (tensors["b"].float() @ tensors["a"].float())

    def factors(self, tensors: Tensors) -> tuple[Tensor, Tensor] | None:
        """Its two matrices; those of experts are left to `change`."""
        cls = type(self)
        plain = cls.delta is Lora.delta and cls.change is Lora.change
        return (
            (tensors["a"], tensors["b"]) if plain and tensors["a"].ndim == 2 else None
        )

    def change(self, asked: Asked) -> Tensor:
        """B (scale * A x): the dense matrix is never made."""
        inner = asked.product(asked.x, asked.tensors["a"]) * asked.scale
        return asked.product(inner, asked.tensors["b"])


register(Lora())
