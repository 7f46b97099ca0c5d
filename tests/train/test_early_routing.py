"""Routers at first: their initial values keep experts from specialising early."""

from __future__ import annotations

import pytest
import torch

from tiny_runs import Runs

EXPERTS = 8
SEEDS = (1, 2, 3)


def unevenness(runs, **options):
    """Spread of the experts' load over the even share, [24 steps], mean of seeds."""
    found = []
    for seed in SEEDS:
        run = runs.train(
            seed=seed, use_moe=True, num_experts=EXPERTS, moe_top_k=2,
            moe_intermediate_size=32, hidden_size=64, seq_length=64, steps=24,
            global_batch_size=8, batch_size=8, init_std=0.02, learning_rate=1e-3,
            load_balancing_weight=0.0, **options,
        )  # fmt: skip
        load = torch.tensor([row["moe.load"] for row in run.rows])
        found.append(load.std(-1).mean(-1) * EXPERTS)
    return torch.stack(found).mean(0)


@pytest.mark.thorough
def test_equal_rows_of_some_spread_keep_the_load_even_for_longer(tmp_path, monkeypatch):
    """Nothing balances here. Adam's steps have a size of their own, so small rows are
    soon another router's, and what they then prefer they prefer together."""
    runs = Runs(tmp_path, monkeypatch)
    usual = unevenness(runs)
    steady = unevenness(runs, router_init="orthogonal", router_init_std=0.1)
    small = unevenness(runs, router_init="normal", router_init_std=0.002)
    assert steady[-6:].mean() < 0.9 * usual[-6:].mean() < 0.9 * small[-6:].mean()
