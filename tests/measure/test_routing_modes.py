"""Which ways of routing a model of two is compared in."""

from __future__ import annotations

import pytest

from lumina.measure.routing_modes import routing_modes
from lumina.model.spec import ModSpec, MorSpec
from networks import tiny_spec

LEARNED, STATIC = ModSpec(layers=(1,)), ModSpec(layers=(1,), mode="static")


@pytest.mark.parametrize(
    ("mod", "mor", "modes"),
    [
        (None, None, ()),
        (LEARNED, None, ("predictor", "top_k", "static")),
        (STATIC, None, ("static", "top_k")),
        (ModSpec(layers=(1,), routing="random"), None, ()),
        (None, MorSpec(), ("predictor", "top_k", "static")),
        (None, MorSpec(mode="static"), ("static", "top_k")),
        (None, MorSpec(recursions=1), ()),
        (None, MorSpec(routing="token_choice"), ()),
        (STATIC, MorSpec(routing="token_choice"), ("static", "top_k")),
        (LEARNED, MorSpec(), ("predictor", "top_k", "static")),
        (LEARNED, MorSpec(mode="static"), ()),
    ],
)
def test_a_model_is_compared_in_the_ways_that_it_has(mod, mor, modes):
    assert routing_modes(tiny_spec(mod=mod, mor=mor)) == modes
