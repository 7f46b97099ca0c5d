"""Options of Mixture of Recursions."""

from __future__ import annotations

import pytest

from option_effects import shows
from tiny_runs import Runs

AGAIN = {"use_mor": True, "num_layers": 3}


@pytest.mark.covers("MOD-32: shared block applied a variable number of times per token")
@shows("use_mor", "mor_recursions")
def recursions(runs: Runs) -> None:
    plain = runs.train(num_layers=3)
    one = runs.train(mor_recursions=1, **AGAIN)
    assert one.first_loss == plain.first_loss
    for count in (2, 3):
        run = runs.train(mor_recursions=count, **AGAIN)
        assert run.tensor("recursion.router.weight").shape == (count - 1, 32)
        shares = run.rows[0]["mor.depth_share"]
        assert len(shares) == count and shares == sorted(shares, reverse=True)
        assert run.first_loss != plain.first_loss


@pytest.mark.covers(
    "MOD-32: fixed maximum depth in static mode",
    "MOD-33: fixed maximum recursion depth",
)
@shows("mor_mode")
def mode(runs: Runs) -> None:
    """All tokens go as deep as there is, or fewer and fewer."""
    dynamic, static = runs.both("mor_mode", "dynamic", "static", **AGAIN)
    assert static.rows[0]["mor.depth_share"] == [1.0, 1.0]
    assert dynamic.rows[0]["mor.depth_share"][1] < 1
    assert dynamic.first_loss != static.first_loss


@shows("mor_alpha")
def alpha(runs: Runs) -> None:
    """The less a recursion weighs, the nearer the loss is to the plain model's."""
    plain = runs.train(num_layers=3).first_loss
    little, much = runs.both("mor_alpha", 1e-4, 1.0, **AGAIN)
    assert abs(little.first_loss - plain) < 1e-3
    assert abs(much.first_loss - plain) > 10 * abs(little.first_loss - plain)


@shows("mor_router_loss_weight")
def router_loss(runs: Runs) -> None:
    off, on = runs.both("mor_router_loss_weight", 0.0, 10.0, **AGAIN)
    assert on.first_loss == off.first_loss
    norms = [run.rows[0]["grad_norm"] for run in (off, on)]
    assert norms[1] > norms[0]
    assert on.rows[0]["mor.router_loss"] == pytest.approx(
        off.rows[0]["mor.router_loss"]
    )


TOKEN = {"mor_routing": "token_choice", "mor_recursions": 3, **AGAIN}


@shows("mor_routing")
def routing(runs: Runs) -> None:
    """Who chooses: every token its depth, and then their number is not given."""
    passes, tokens = runs.both(
        "mor_routing", "expert_choice", "token_choice", mor_recursions=3, **AGAIN
    )
    assert tokens.tensor("recursion.router.weight").shape == (3, 32)
    assert tokens.first_loss != passes.first_loss
    row = tokens.rows[0]
    assert sum(row["mor.choice_share"]) == pytest.approx(1)
    assert row["mor.z_loss"] > 0 and "mor.router_loss" not in row
    load = tokens.tensor("recursion.load")
    assert list(load) == pytest.approx(tokens.rows[-1]["mor.choice_share"], abs=1e-6)


@shows("mor_kv_sharing")
def key_sharing(runs: Runs) -> None:
    """Other keys, another loss; less work, for none are made again."""
    apart, shared = runs.both("mor_kv_sharing", False, True, **AGAIN)
    assert shared.first_loss != apart.first_loss
    assert set(shared.tensors) == set(apart.tensors)


@shows("mor_capacity_factor")
def places(runs: Runs) -> None:
    tight, roomy = runs.both("mor_capacity_factor", 0.25, 3.0, **TOKEN)
    assert max(tight.rows[0]["mor.dropped_fraction"]) > 0.1
    assert max(roomy.rows[0]["mor.dropped_fraction"]) == 0
    assert tight.rows[0]["mor.choice_share"] == roomy.rows[0]["mor.choice_share"]


@shows("mor_balance_weight")
def balance(runs: Runs) -> None:
    """From the second step on: the load of the one before is even at first."""
    off, on = runs.both("mor_balance_weight", 0.0, 100.0, **TOKEN)
    assert on.first_loss == off.first_loss
    assert on.rows[0]["mor.balance_loss"] == pytest.approx(1)
    assert on.rows[1]["grad_norm"] > 1.1 * off.rows[1]["grad_norm"]


@shows("mor_z_loss_weight")
def z_loss(runs: Runs) -> None:
    off, on = runs.both("mor_z_loss_weight", 0.0, 100.0, **TOKEN)
    assert on.first_loss == off.first_loss
    assert on.rows[0]["mor.z_loss"] == pytest.approx(off.rows[0]["mor.z_loss"])
    assert on.rows[0]["grad_norm"] > off.rows[0]["grad_norm"]
