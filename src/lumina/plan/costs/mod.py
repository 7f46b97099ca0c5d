"""What blocks cost that take a share of the tokens."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace

from lumina.model.freezing import without_absent
from lumina.model.spec import ModelSpec, ModSpec
from lumina.plan.costs.cost import Cost, KeptBy, Share
from lumina.plan.costs.forward import Forward, Kept


class Depths(Cost):
    """Blocks that tokens pass by cost what the others take."""

    field = "mod"

    def share(self, spec: ModelSpec, layer: int) -> Share | None:
        """The tokens that go through, on average over a run."""
        mod = _mod(spec)
        if layer not in mod.layers:
            return None
        feedforward = 1.0 if mod.mode == "static" else depth_share(spec)
        return Share(feedforward if mod.scope == "block" else 1.0, feedforward)

    def kept(
        self, spec: ModelSpec, forward: Forward, layer: int, mode: str, plain: KeptBy
    ) -> Kept | None:
        """The chosen tokens, and the choice."""
        if mode == "full" or layer not in _mod(spec).layers:
            return None
        return _kept_by_choice(spec, forward, layer, mode, plain)

    def alike(self, spec: ModelSpec, layer: int) -> Hashable:
        """Whether the layer chooses."""
        return layer in _mod(spec).layers


def depth_share(spec: ModelSpec) -> float:
    """Tokens a Mixture-of-Depths block takes of a row: k / S, on average over a run."""
    assert spec.mod is not None
    length = spec.seq_length
    capacities = spec.mod.schedule or (spec.mod.capacity,)
    taken = [max(1, math.ceil(round(c * length, 6))) for c in capacities]
    return sum(taken) / len(taken) / length


def _kept_by_choice(
    spec: ModelSpec, forward: Forward, layer: int, mode: str, plain: KeptBy
) -> Kept:
    """A block that only some tokens go through: those, and the choice."""
    mod = _mod(spec)
    tokens, width = forward.rows * spec.seq_length, spec.hidden_size
    every = without_absent(replace(spec, mod=None))
    if mod.mode == "static":
        inner = plain(every, forward, layer, mode)
        return inner + Kept(tokens * (4 * width + 8 * width + 16))
    count = max(1, math.ceil(max(mod.ladder) * spec.seq_length))
    few = replace(every, seq_length=count)
    inner = plain(few, forward, layer, mode)
    if mod.scope == "feedforward" and mode == "none":
        # Attention sees every token; without a feed-forward only that is left.
        bare, few_bare = (
            replace(one, intermediate_size=0, moe=None) for one in (every, few)
        )
        inner += plain(bare, forward, layer, mode)
        inner += Kept(-plain(few_bare, forward, layer, mode).dense)
    elif mod.scope == "feedforward":
        inner = plain(every, forward, layer, mode)
    chosen = forward.rows * count
    # The scattered output and, for packed rows, the mask.
    mask = forward.mask_bytes
    back = chosen * (width * forward.element + 8 * spec.head_dim + mask * count)
    router = tokens * 40 + chosen * 24
    if mod.learned:
        router += tokens * 12 * width
    return inner + Kept(back + router)


def _mod(spec: ModelSpec) -> ModSpec:
    assert spec.mod is not None
    return spec.mod
