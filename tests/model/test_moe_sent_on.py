"""The layer whose overflowing tokens go to their next best expert, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lumina.model.build import build_network
from lumina.model.spec import MoeSpec
from lumina.ops.moe.capacity import expert_capacity
from lumina.ops.moe.reroute import NOWHERE, assign_with_reserve, reserve_of
from networks import tiny_spec


@pytest.mark.covers("MOD-18: sent to auxiliary routing")
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_token_gets_the_other_expert_with_that_ones_weight(top_k):
    moe = MoeSpec(
        6, top_k, 24, (0,), dispatch="capacity", capacity_factor=0.6, overflow="reroute"
    )
    network = build_network(tiny_spec(moe=moe, init_std=0.3), seed=1)
    layer = network.backbone.blocks[0].feedforward.train()
    x = torch.randn(2, 15, network.spec.hidden_size)
    found, aux = layer(x)
    routing = layer.route(x.flatten(0, 1))
    places = expert_capacity(30, top_k, 6, 0.6)
    reserve = reserve_of(places, 0.25)
    place, column = assign_with_reserve(
        routing.ids_tk.view(2, 15, -1),
        routing.next_tj.view(2, 15, -1),
        None, 6, places, reserve,
    )  # fmt: skip
    wanted = torch.zeros(30, network.spec.hidden_size)
    for token in range(30):
        for choice in range(top_k):
            if place[token, choice] == 6 * (places + reserve):
                continue
            other = int(column[token, choice])
            own = other == NOWHERE
            ids, scores, at = (
                (routing.ids_tk, routing.scores_tk, choice)
                if own
                else (routing.next_tj, routing.next_scores_tj, other)
            )
            expert = int(ids[token, at])
            gate, up = (layer.gate_up[expert] @ x.flatten(0, 1)[token]).chunk(2)
            made = layer.down[expert] @ (F.silu(gate) * up)
            wanted[token] += scores[token, at] * made
    torch.testing.assert_close(found.flatten(0, 1), wanted, rtol=1e-4, atol=1e-5)
    assert aux["moe.rerouted"] == (column != NOWHERE).sum() > 0
    assert aux["moe.dropped"] == (place == 6 * (places + reserve)).sum() > 0
    # In evaluation every token stays with its own.
    _, aux = layer.eval()(x)
    assert aux["moe.rerouted"] == aux["moe.dropped"] == 0
