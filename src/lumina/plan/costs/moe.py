"""What routed experts cost."""

from __future__ import annotations

import math
from collections.abc import Hashable

from lumina.model.spec import ModelSpec, MoeSpec
from lumina.plan.costs.cost import Cost
from lumina.plan.costs.forward import Forward, Kept
from lumina.plan.costs.layout import Layout


class Experts(Cost):
    """A token uses a few of the experts, and its row is copied once for each."""

    field = "moe"

    def efficiency(
        self, on_gpu: bool, compiled: bool
    ) -> tuple[float, float, float] | None:
        """Measured on one H200 and on a processor (docs/claims.md)."""
        if not on_gpu:
            return 0.1, 0.25, 0.6
        return (0.18, 0.33, 0.43) if compiled else (0.08, 0.20, 0.27)

    def kept_by_feedforward(
        self, spec: ModelSpec, forward: Forward, layer: int, mode: str
    ) -> Kept | None:
        """The rows that experts work on, the router's values, the shared experts'."""
        moe = _moe(spec)
        if layer not in moe.layers:
            return None
        tokens, element = forward.rows * spec.seq_length, forward.element
        rows = routed_rows(moe, tokens)
        if mode == "selective":
            width = 2 * moe.intermediate_size + spec.hidden_size
            dense = tokens * 4 * moe.num_experts
            if moe.shared_size:
                dense += tokens * (2 * moe.shared_size + spec.hidden_size) * element
            return Kept(dense, rows * width * element)
        if forward.at_once(tokens) < tokens:
            # The norm before it is in no tile.
            norm = forward.norm(spec.hidden_size) - spec.hidden_size * element
            return Kept(tokens * (12 * moe.num_experts + 40 * moe.top_k + norm))
        # Gathered rows, gate and up, silu(gate), their product, the result.
        values = rows * (2 * spec.hidden_size + 4 * moe.intermediate_size)
        # Scores, logits and the factor on them.
        router = tokens * (12 * moe.num_experts + 40 * moe.top_k)
        router += 4 * tokens * moe.shared_size * element
        if element == 2:
            # The router keeps the norm's output in float32, and nothing in 16 bits.
            router += tokens * 2 * spec.hidden_size
        return Kept(router, values * element)

    def exact(self, spec: ModelSpec, layout: Layout) -> int:
        """Scores of the router, in every form."""
        moe, tokens = _moe(spec), layout.micro_batch_size * spec.seq_length
        return tokens * (12 * moe.num_experts + 40 * moe.top_k)

    def working_values(self, spec: ModelSpec, tokens: int) -> int:
        """The rows of all experts, at the width of one."""
        moe = _moe(spec)
        rows = routed_rows(moe, tokens) * (moe.intermediate_size + spec.hidden_size)
        return rows + tokens * moe.shared_size

    def alike(self, spec: ModelSpec, layer: int) -> Hashable:
        """Whether the layer is routed."""
        return layer in _moe(spec).layers


def routed_rows(moe: MoeSpec, tokens: int) -> int:
    """Rows the experts of one layer work on."""
    assigned = tokens * moe.top_k
    if moe.dispatch == "dropless":
        return assigned
    share = round(moe.capacity_factor * assigned / moe.num_experts, 6)
    places = max(1, min(math.ceil(share), tokens))
    reserve = max(1, round(places * moe.reserve)) if moe.reserve else 0
    return moe.num_experts * (places + reserve)


def _moe(spec: ModelSpec) -> MoeSpec:
    assert spec.moe is not None
    return spec.moe
