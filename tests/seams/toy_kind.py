"""A kind of model that says what it cannot do, in words of its own; nothing else does.

Its blocks remember the sum of all tokens, so that rows are not cut or shared.
"""

from __future__ import annotations

from collections.abc import Mapping

import lumina
from lumina.features.abilities import Ability, register_ability
from lumina.model.kinds.kind import Kind
from lumina.model.spec import ModelSpec

WIDTH = 48
"""A model of this width is of this kind."""

register_ability("toy_looks", Ability("be looked at by a toy"))


class Summing(Kind):
    """Models of one width."""

    name = "summing"
    lacks: Mapping[str, str] = {
        "label_smoothing": "a sum has no classes",
        "float32_alone": "sums are kept in float64",
        "paged_cache": "a sum is not cut into blocks",
        "tiled_feedforward": "a sum is over whole rows",
        "toy_looks": "there is nothing to see in a sum",
    }

    def applies(self, spec: ModelSpec) -> bool:
        """Told by the width alone: a plug-in's kind has no options."""
        return spec.hidden_size == WIDTH


class Doubling(Summing):
    """The same models, of which every feature is possible."""

    name = "doubling"
    lacks: Mapping[str, str] = {}


lumina.register_kind(Summing())
