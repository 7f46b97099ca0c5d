"""PiSSA: train the principal part of a matrix (Meng et al., 2024, arXiv:2404.02948)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lumina.model.adapters.method import Asked, Leaf, Tensors
from lumina.model.adapters.methods.lora import Lora
from lumina.model.adapters.principal import principal
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import register
from lumina.model.tensors import ZEROS


class Pissa(Lora):
    """W + scale * (B A - B0 A0), where B0 A0 is the principal part of W.

    The paper takes the principal part out of the base. Here the base stays as it is,
    and the part that training began with, which is kept in two buffers, is taken off
    the result: the same function, for any base, packed or not.
    """

    name = "pissa"
    words = "PiSSA"
    starts_from_base = True

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """A and B, and what they began as."""
        own = super().leaves(site, rank, options)
        return (
            *own,
            *(replace(o, name=f"{o.name}0", first=ZEROS, kind="buffer") for o in own),
        )

    def start(
        self, tensors: Tensors, scale: float, base: Tensor, held: Tensor
    ) -> dict[str, Tensor]:
        """The principal part of the base, in equal halves."""
        b, a = principal(base.float() / scale, tensors["a"].shape[-2])
        return {"a": a, "b": b, "a0": a.clone(), "b0": b.clone()}

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """scale * (B A - B0 A0)."""
        first = {"a": tensors["a0"], "b": tensors["b0"]}
        return super().delta(tensors, scale, None) - super().delta(first, scale, None)

    def change(self, asked: Asked) -> Tensor:
        """The same by narrow products."""
        first = {"a": asked.tensors["a0"], "b": asked.tensors["b0"]}
        return super().change(asked) - super().change(replace(asked, tensors=first))


register(Pissa())
