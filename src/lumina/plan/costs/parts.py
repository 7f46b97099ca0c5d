"""What registered parts cost."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace

from lumina.model.freezing import without_absent
from lumina.model.spec import ModelSpec, PartsSpec
from lumina.plan.costs.block import attention_bytes, open_scores
from lumina.plan.costs.cost import Cost, KeptBy
from lumina.plan.costs.forward import Forward, Kept
from lumina.plan.parts import extra_flops, kept_by_part, own_attention, parts_of


class Parts(Cost):
    """Parts of plug-ins: as declared, and otherwise measured."""

    field = "parts"

    def further_flops(self, spec: ModelSpec) -> float:
        """The operations that parts declare beside their parameters."""
        return extra_flops(spec)

    def attending(self, spec: ModelSpec) -> int:
        """The layers that keep Lumina's attention."""
        return own_attention(spec)

    def kept(
        self, spec: ModelSpec, forward: Forward, layer: int, mode: str, plain: KeptBy
    ) -> Kept | None:
        """The measured share of the parts, in place of that of Lumina's own."""
        if _parts(spec).backbone:
            tokens = forward.rows * spec.seq_length
            whole = kept_by_part(spec, "backbone", layer, tokens, forward.element)
            return Kept(math.ceil(whole / spec.num_layers))
        if mode == "full" or not parts_of(spec, layer):
            return None
        return _kept_with_parts(spec, forward, layer, plain)

    def working(self, spec: ModelSpec, forward: Forward) -> int:
        """All that a part kept may have its gradient beside it."""
        tokens, element = forward.rows * spec.seq_length, forward.element
        kept = [
            kept_by_part(spec, kind, layer, tokens, element)
            for layer in range(spec.num_layers)
            for kind in parts_of(spec, layer)
        ]
        if _parts(spec).backbone:
            kept.append(kept_by_part(spec, "backbone", 0, tokens, element))
        return max(kept, default=0)

    def alike(self, spec: ModelSpec, layer: int) -> Hashable:
        """The parts of the layer."""
        return tuple(parts_of(spec, layer).items())


def _kept_with_parts(
    spec: ModelSpec, forward: Forward, layer: int, plain: KeptBy
) -> Kept:
    """A block with registered parts, of which all is kept under every mode.

    Their share is measured; it takes the place of that of Lumina's own.
    """
    tokens, element = forward.rows * spec.seq_length, forward.element
    named = parts_of(spec, layer)
    theirs = Kept(sum(kept_by_part(spec, k, layer, tokens, element) for k in named))
    if "block" in named:
        return theirs
    own = without_absent(replace(spec, parts=None))
    kept = plain(own, forward, layer, "none") + theirs
    if "attention" in named:
        kept += Kept(-tokens * attention_bytes(own, forward))
        if forward.attention == "reference":
            kept += Kept(-open_scores(own, forward))
    if "feedforward" in named:
        kept += Kept(-4 * tokens * spec.intermediate_size * element)
    return kept


def _parts(spec: ModelSpec) -> PartsSpec:
    assert spec.parts is not None
    return spec.parts
