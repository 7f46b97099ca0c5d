"""Goals lean every routed layer towards the experts that serve them."""

from __future__ import annotations

import pytest
import torch

from lumina.batch import Batch
from lumina.infer.expert_goals import lean_towards
from lumina.model.build import build_network
from lumina.model.moe import routed_layers
from lumina.model.spec import MoeSpec
from lumina.state.expert_registry import Registry
from networks import random_ids, tiny_spec


@pytest.mark.covers("MOD-25: bias toward experts linked to active goals")
def test_every_routed_layer_sends_its_expert_more_tokens(tmp_path):
    registry = Registry(tmp_path / "registry")
    for name in ("farm", "town"):
        registry.create(name)
    registry.link("farm", "tell of hens")
    moe = MoeSpec(6, 2, 16, layers=(0, 1, 3), names=("farm", "town"))
    network = build_network(tiny_spec(num_layers=4, moe=moe), seed=1).eval()
    batch = Batch.from_rows(random_ids(8, 24))

    def shares():
        with torch.no_grad():
            counts = network(batch)[1]["moe.counts"]
        return counts / counts.sum(dim=1, keepdim=True)

    before = shares()
    assert lean_towards(network, ["tell of hens"], registry) == ["farm"]
    after = shares()
    assert (after[:, 4] > before[:, 4] + 0.1).all(), (before, after)
    for layer in routed_layers(network):
        leaning = layer.routing_bias.tolist()
        assert leaning[4] > 0 and leaning[:4] + leaning[5:] == [0] * 5
