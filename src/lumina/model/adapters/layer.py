"""The modules that stand on a base layer and change what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.adapters.method import Asked, Method
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.sites import Site, own_or
from lumina.model.adapters.table import chosen_method
from lumina.ops.low_bits.pair import Pair

Product = Callable[[Tensor, Tensor], Tensor]
"""Rows [..., in] times the transpose of a matrix [out, in], or of their expert's."""


class Base(Protocol):
    """The layer under adapters. How it keeps its matrix is its own affair."""

    def dense(self, matrix: str) -> Tensor:
        """One of its matrices as a tensor; one that is packed is unpacked."""

    def bias_of(self, matrix: str) -> Tensor | None:
        """The bias that it adds after multiplying by a matrix, or None."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Rows [..., in] times the transpose of a matrix [out, in], in the type of x."""
    return F.linear(x, weight.to(x.dtype))


class Piece(nn.Module):
    """One adapter on one matrix of files.

    Attributes:
        method: what its tensors do.
        site: the matrix.
        rank: the width of its narrow side.
        scale: factor on what it adds.
    """

    def __init__(self, adapter: AdapterSpec, site: Site) -> None:
        super().__init__()
        self.method: Method = chosen_method(adapter.method)
        self.site = site
        self.rank = own_or(adapter.ranks, site, adapter.rank)
        alpha = own_or(adapter.alphas, site, adapter.alpha)
        self.scale = self.method.scale(alpha, self.rank)
        # A head is multiplied inside the loss, where nothing can be dropped.
        self.dropout = 0.0 if site.head else adapter.dropout
        self.names: tuple[str, ...] = ()
        for leaf in self.method.leaves(site, self.rank, adapter.options):
            value = torch.empty(leaf.shape)
            self.names += (leaf.name,)
            if leaf.kind == "parameter":
                self.register_parameter(leaf.name, nn.Parameter(value))
            else:
                self.register_buffer(leaf.name, value, persistent=leaf.kind == "buffer")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their short names."""
        return {name: getattr(self, name) for name in self.names}

    def delta(self, base: Base | None = None) -> Tensor:
        """The dense change of the matrix: float32, of the shape that it has in files.

        Args:
            base: the layer that holds the matrix; needed where the method reads it.
        """
        known = None
        if self.method.needs_base:
            assert base is not None, f"{self.method.name} reads the base matrix"
            known = self.rows(base.dense(self.site.matrix)).float()
        return self.method.delta(self.tensors, self.scale, known)

    def rows(self, whole: Tensor) -> Tensor:
        """This piece's rows of a matrix of the module."""
        return whole[..., self.site.begin : self.site.end, :]

    def forward(self, x: Tensor, y: Tensor, base: Base, multiply: Product) -> Tensor:
        """What it adds to its piece of the base's output.

        Args:
            x: [..., in] that the base took.
            y: [..., out] its piece of what the base returned.
            base: the layer that holds the matrix.
            multiply: as of `Asked.product`.
        """
        bias = base.bias_of(self.site.matrix)
        return self.method.change(
            Asked(
                x=F.dropout(x, self.dropout, self.training) if self.dropout else x,
                y=y,
                tensors=self.tensors,
                scale=self.scale,
                product=multiply,
                base=lambda: self.rows(base.dense(self.site.matrix)),
                bias=None if bias is None else bias[self.site.begin : self.site.end],
            )
        )


class Adapters(nn.ModuleDict):
    """All adapters of a layer: name of the adapter -> name of the piece -> `Piece`.

    What several of them change adds up, each by its weight.

    Attributes:
        weights: of each adapter; one of weight 0 costs nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}

    def put(self, adapter: AdapterSpec, site: Site) -> None:
        """Add an adapter on one matrix of the layer."""
        if adapter.name not in self:
            self[adapter.name] = nn.ModuleDict()
        pieces: Any = self[adapter.name]
        pieces[site.piece] = Piece(adapter, site)
        self.weights[adapter.name] = adapter.weight

    def acting(self, matrix: str) -> Iterable[tuple[float, Piece]]:
        """The pieces that change what a matrix gives, each with its weight."""
        for name, pieces in self.items():
            if weight := self.weights[name]:
                for piece in pieces.values():  # type: ignore[operator]
                    if piece.site.matrix == matrix:
                        yield weight, piece

    def forward(
        self,
        x: Tensor,
        base: Base,
        multiply_base: Callable[[Tensor], Tensor],
        matrix: str = "weight",
        multiply: Product = product,
    ) -> Tensor:
        """What the base and its adapters make of an input.

        Args:
            x: [..., in].
            base: the layer.
            multiply_base: the base's own product, a black box. Where it gives the first
                rows of the matrix only, the adapters of the others are left out.
            matrix: the name of the layer's matrix.
            multiply: as of `Asked.product`.

        Returns:
            [..., out].
        """
        acting = list(self.acting(matrix))
        x = self._entering(x, acting)
        y = multiply_base(x)
        changes: dict[tuple[int, int], Tensor] = {}
        for weight, piece in acting:
            place = piece.site.begin, piece.site.end
            enters = piece.method.entering(piece.tensors) is not None
            if enters or place[1] > y.shape[-1]:
                continue
            added = piece(x, y[..., place[0] : place[1]], base, multiply)
            added = added if weight == 1.0 else weight * added
            changes[place] = changes[place] + added if place in changes else added
        return _added(y, changes)

    @staticmethod
    def _entering(x: Tensor, acting: list[tuple[float, Piece]]) -> Tensor:
        """The input, scaled by those adapters that act on it."""
        factor: Tensor | None = None
        for weight, piece in acting:
            if (more := piece.method.entering(piece.tensors)) is not None:
                factor = weight * more if factor is None else factor + weight * more
        return x if factor is None else x * (1.0 + factor).to(x.dtype)

    def pairs(self, outputs: int, matrix: str = "weight") -> list[Pair] | None:
        """All that they add, where it is narrow pairs of matrices and nothing else.

        Args:
            outputs: only what stands on the first of them.
            matrix: the name of the layer's matrix.

        Returns:
            None where an adapter does something else, or drops some of its input.
        """
        found = []
        for weight, piece in self.acting(matrix):
            factors = piece.method.factors(piece.tensors)
            if factors is None or (piece.dropout and self.training):
                return None
            if piece.site.end <= outputs:
                scale = weight * piece.scale
                found.append(Pair(*factors, scale, piece.site.begin))
        return found

    def changed(self, whole: Tensor, base: Base, matrix: str = "weight") -> Tensor:
        """A matrix of the layer with its changes, in its type; differentiable.

        Args:
            whole: the matrix, [..., out, in].
            base: the layer.
            matrix: its name.
        """
        changes: dict[tuple[int, int], Tensor] = {}
        for weight, piece in self.acting(matrix):
            place = piece.site.begin, piece.site.end
            delta = (weight * piece.delta(base)).to(whole.dtype)
            changes[place] = changes[place] + delta if place in changes else delta
        return _added(whole.mT, {k: v.mT for k, v in changes.items()}).mT


def _added(y: Tensor, changes: dict[tuple[int, int], Tensor]) -> Tensor:
    """y with what is added to ranges of its last dimension."""
    if not changes:
        return y
    if set(changes) == {(0, y.shape[-1])}:
        return y + changes[0, y.shape[-1]]
    parts, at = [], 0
    for begin, end in sorted(changes):
        if at < begin:
            parts.append(y[..., at:begin])
        parts.append(y[..., begin:end] + changes[begin, end])
        at = end
    if at < y.shape[-1]:
        parts.append(y[..., at:])
    return torch.cat(parts, dim=-1)
