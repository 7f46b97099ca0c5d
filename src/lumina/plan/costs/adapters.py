"""What adapters keep of a forward pass beside what their matrices keep."""

from __future__ import annotations

from lumina.model.declared import declared
from lumina.model.kinds.adapters import placed
from lumina.model.spec import ModelSpec
from lumina.plan.costs.cost import Forward

MASK = 1
"""Bytes of a number in a mask of dropout on CUDA; elsewhere masks have its own type."""


def dropped_bytes(spec: ModelSpec, forward: Forward, layer: int) -> int:
    """The inputs that each adapter of a block has dropped some of, and their masks.

    Without dropout all adapters read the input that the matrix keeps anyway.
    """
    if not any(one.dropout for one in spec.adapters):
        return 0
    tokens = forward.rows * spec.seq_length
    of_layer = f".blocks.{layer}."
    each = forward.element + (MASK if forward.cuda else forward.element)
    values = 0
    for adapter, site in placed(spec, declared(spec)):
        if not adapter.dropout or of_layer not in f".{site.path}.":
            continue
        routed = len(site.shape) == 3
        rows = forward.at_once(tokens)
        if routed and spec.moe is not None:
            rows *= spec.moe.top_k
        values += rows * site.shape[-1]
    return values * each
