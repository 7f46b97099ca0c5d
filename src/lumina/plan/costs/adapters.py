"""What adapters keep of a forward pass beside what their matrices keep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.sites import Site
from lumina.model.declared import declared, in_block
from lumina.model.kinds.adapters import placed
from lumina.model.kinds.kind import Kind
from lumina.model.kinds.table import kinds_of
from lumina.model.registry import Part, used_parts
from lumina.model.spec import ModelSpec
from lumina.plan.costs.forward import Forward

ONLY_HERE = (".qkv", ".gate_up", ".down")
"""Matrices whose input nothing else keeps: not those behind attention, which keeps what
it returns."""

MASK = 1
"""Bytes of a number in a mask of dropout on CUDA; elsewhere masks have its own type."""


def dropped_bytes(spec: ModelSpec, forward: Forward, layer: int) -> int:
    """The inputs that each adapter of a block has dropped some of, and their masks.

    Without dropout, adapters read the input that is counted as kept by the matrix. A
    frozen matrix keeps none, so where all its adapters have inputs of their own that
    one is not there.
    """
    if not any(one.dropout for one in spec.adapters):
        return 0
    tokens = forward.rows * spec.seq_length
    of_layer = f".blocks.{layer}."
    each = forward.element + (MASK if forward.cuda else forward.element)
    values, own, others = 0, dict[str, int](), set[str]()
    for adapter, site in where_adapters_stand(spec):
        if of_layer not in f".{site.path}.":
            continue
        if not adapter.dropout:
            others.add(site.path)
            continue
        routed = len(site.shape) == 3
        rows = forward.at_once(tokens)
        if routed and spec.moe is not None:
            rows *= spec.moe.top_k
        values += rows * site.shape[-1]
        if not routed and site.path.endswith(ONLY_HERE):
            own[site.path] = rows * site.shape[-1]
    gone = sum(size for path, size in own.items() if path not in others)
    return values * each - gone * forward.element * forward.cuda


def where_adapters_stand(spec: ModelSpec) -> tuple[tuple[AdapterSpec, Site], ...]:
    """Each adapter with each matrix that it stands on."""
    return _placed(spec, kinds_of(spec), tuple(used_parts(spec)))


@lru_cache(maxsize=16)
def _placed(
    spec: ModelSpec, kinds: tuple[Kind, ...], parts: tuple[Part, ...]
) -> tuple[tuple[AdapterSpec, Site], ...]:
    """Where adapters stand, cached as declarations are: a plan asks for it often."""
    return tuple(placed(spec, declared(spec)))


def narrow_bytes(
    spec: ModelSpec, tokens: int, element: int, kinds: Sequence[str]
) -> int:
    """Bytes of the narrow sides of adapters, a row of each for a token.

    A token that is routed has a row for each expert that it goes to. A block that is
    computed again from its input keeps none of them.

    Args:
        spec: the shape.
        tokens: of a forward pass.
        element: bytes of a value in the compute type.
        kinds: of recomputation, of each block.
    """
    kept = 0
    for layer, kind in enumerate(kinds):
        if kind not in ("none", "selective"):
            continue
        for one in in_block(spec, layer).values():
            if one.role != "adapter" or not one.name.endswith(".a"):
                continue
            *experts, rank, _ = one.shape
            rows = tokens * (spec.moe.top_k if experts and spec.moe else 1)
            kept += rows * rank * element
    return kept
