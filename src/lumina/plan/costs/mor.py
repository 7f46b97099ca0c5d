"""What recursions cost."""

from __future__ import annotations

import math
from dataclasses import replace

from lumina.model.freezing import without_absent
from lumina.model.spec import ModelSpec, MorSpec
from lumina.plan.costs.cost import Cost, KeptBy
from lumina.plan.costs.forward import Forward, Kept


class Recursions(Cost):
    """The inner blocks are passed again, by fewer tokens each time."""

    field = "mor"

    def repeats(self, spec: ModelSpec) -> list[float]:
        """The tokens in each pass after the first."""
        return recursion_shares(spec)

    def repeats_keys(self, spec: ModelSpec) -> bool:
        """Unless they attend to those of the first pass."""
        return not _mor(spec).kv_sharing

    def cached_layers(self, spec: ModelSpec) -> int:
        """Those of the first pass, and of each further one that makes its own."""
        mor = _mor(spec)
        further = 0 if mor.kv_sharing else mor.recursions - 1
        return spec.num_layers + further * (spec.num_layers - 2)

    def kept_beside(
        self, spec: ModelSpec, forward: Forward, mode: str, plain: KeptBy
    ) -> Kept:
        """The further passes."""
        return _further_passes(spec, forward, mode, plain)


def recursion_shares(spec: ModelSpec) -> list[float]:
    """Tokens in each pass of the middle blocks after the first, over all of a row."""
    mor = _mor(spec)
    depths = range(1, mor.recursions)
    if mor.mode == "static":
        return [1.0 for _ in depths]
    length = spec.seq_length
    return [mor.places(depth, length) / length for depth in depths]


def _further_passes(
    spec: ModelSpec, forward: Forward, mode: str, plain: KeptBy
) -> Kept:
    """What recursions keep beyond the first pass: fewer tokens in each."""
    kept = Kept()
    before = forward.rows * spec.seq_length
    shared = _mor(spec).kv_sharing
    if shared and mode != "none":  # recomputed blocks hand their keys out all the same
        key = spec.num_kv_heads * spec.head_dim
        if spec.mla_kv_rank:
            key = spec.num_heads * spec.head_dim
        kept += Kept(before * 2 * key * forward.element * (spec.num_layers - 2))
    for share in recursion_shares(spec):
        few = without_absent(
            replace(spec, mor=None, seq_length=math.ceil(share * spec.seq_length))
        )
        for layer in range(1, spec.num_layers - 1):
            kept += plain(few, forward, layer, mode)
        chosen = forward.rows * few.seq_length
        mask = forward.mask_bytes
        # The router reads every candidate; what passed is kept beside its weight.
        router = before * (12 * spec.hidden_size + 40)
        back = chosen * (4 + 2 * forward.element) * spec.hidden_size
        keys = spec.seq_length if shared else few.seq_length
        if shared:  # no kernel without a mask reads fewer queries than keys
            mask = mask or forward.element
        back += chosen * (mask * keys + 4 * spec.head_dim + 24)
        kept += Kept(router + back)
        before = chosen
    return kept


def _mor(spec: ModelSpec) -> MorSpec:
    assert spec.mor is not None
    return spec.mor
