"""Which ways of routing a model of two is compared in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.measure.held_out import held_out_loss
from lumina.measure.routing_modes import compare_modes, routing_modes
from lumina.model.build import build_network
from lumina.model.spec import ModSpec, MorSpec, TaskSpec
from lumina.parallel.mesh import Mesh
from networks import packed_batch, tiny_spec

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


def test_a_model_of_several_tasks_is_compared_over_all_of_them():
    """At the end of such a run the comparison broke off: nobody named its tasks."""
    spec = tiny_spec(mod=STATIC, tasks=TaskSpec(("one", "two")))
    network = build_network(spec, seed=1)
    batch = replace(packed_batch([[24], [20]], 24, 2), task_rows=(1, 1))
    where = {"device": torch.device("cpu"), "mesh": Mesh()}
    found = compare_modes(network, network, lambda: [batch], **where)
    alone = held_out_loss(network, [batch], tasks=("one", "two"), **where)
    assert list(found) == ["static", "top_k"]
    assert found["static"] == alone.loss != found["top_k"]


def test_sources_that_are_only_watched_do_not_count():
    """As they do not count in the held-out loss that the ways are compared by."""
    network = build_network(tiny_spec(mod=STATIC), seed=1)
    batches = [
        replace(packed_batch([[24]], 24, n), source_ids=torch.tensor([n]))
        for n in (0, 1)
    ]
    where = {"device": torch.device("cpu"), "mesh": Mesh()}
    mixture = {"sources": ("kept", "watched"), "watched": ("watched",)}
    found = compare_modes(network, network, lambda: batches, **where, **mixture)
    counted = held_out_loss(network, batches[:1], **where)
    assert found["static"] == counted.loss
    assert found["static"] != held_out_loss(network, batches, **where).loss
