"""The first values of adapters, from the seed and the matrices that they stand on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.sites import Site, own_or
from lumina.model.adapters.table import chosen_method
from lumina.model.initial import initial_value
from lumina.model.tensors import Declared


def path_of(adapter: AdapterSpec, site: Site) -> str:
    """What the names of an adapter's tensors on a matrix begin with."""
    return f"{site.path}.adapters.{adapter.name}.{site.piece}"


def as_it_is(matrix: Tensor) -> Tensor:
    """The matrix of a layer that holds all of its bits."""
    return matrix


class FirstValues:
    """Makes the first value of each tensor of the adapters, when it is asked for.

    Args:
        declared: the tensors of the model.
        placed: each adapter with each matrix that it stands on.
        seed: of the run.
        base: logical name -> a matrix of the base, whole.
        held: a matrix as its layer will hold it, from the matrix: other numbers where
            that is in few bits.
    """

    def __init__(
        self,
        declared: Mapping[str, Declared],
        placed: list[tuple[AdapterSpec, Site]],
        seed: int,
        base: Callable[[str], Tensor],
        held: Callable[[Tensor], Tensor] = as_it_is,
    ) -> None:
        self._declared = declared
        self._placed = {path_of(a, site): (a, site) for a, site in placed}
        self._seed = seed
        self._base = base
        self._held = held
        self._made: dict[str, Tensor] = {}

    @property
    def names(self) -> set[str]:
        """Of all tensors of the adapters."""
        return {
            name for name in self._declared if name.rpartition(".")[0] in self._placed
        }

    def __call__(self, name: str) -> Tensor:
        """The first value of a tensor: float32, on the CPU."""
        path = name.rpartition(".")[0]
        adapter, site = self._placed[path]
        method = chosen_method(adapter.method)
        if not method.starts_from_base:
            return initial_value(self._declared[name], self._seed)
        if name not in self._made:
            rank = own_or(adapter.ranks, site, adapter.rank)
            alpha = own_or(adapter.alphas, site, adapter.alpha)
            own = {
                leaf.name: initial_value(
                    self._declared[f"{path}.{leaf.name}"], self._seed
                )
                for leaf in method.leaves(site, rank, adapter.options)
            }
            base = self._base(site.logical).float()
            held = self._held(base)
            own |= method.start(own, method.scale(alpha, rank), base, held)
            self._made |= {f"{path}.{leaf}": value for leaf, value in own.items()}
        return self._made.pop(name)
