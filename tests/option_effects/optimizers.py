"""Options of optimizers: which one trains what, and its own options."""

from __future__ import annotations

from pathlib import Path

from option_effects import shows
from tiny_runs import Runs

TOYS = str(Path(__file__).parents[1] / "seams" / "toy_optimizers.py")


@shows("optimizer_groups")
def groups(runs: Runs) -> None:
    """The feed-forward's moments give way to a velocity; the rest is as it was."""
    whole, divided = runs.both(
        "optimizer_groups", (), ("*.feedforward.*=toy_momentum",), plugins=(TOYS,)
    )
    name = "backbone.blocks.1.feedforward.gate.weight"
    assert name in whole.slot("exp_avg") and not whole.slot("velocity")
    assert name in divided.slot("velocity") and name not in divided.slot("exp_avg")
    assert "backbone.norm.weight" in divided.slot("exp_avg")
    assert whole.rows[-1]["loss"] != divided.rows[-1]["loss"]


@shows("optimizer_options")
def options(runs: Runs) -> None:
    """Without momentum the velocity is the last gradient alone."""
    one, two = runs.both(
        "optimizer_options",
        (),
        ("momentum=0.0",),
        optimizer="toy_momentum",
        plugins=(TOYS,),
    )
    name = "backbone.norm.weight"
    assert not one.slot("velocity")[name].equal(two.slot("velocity")[name])
    assert one.rows[1]["loss"] == two.rows[1]["loss"]
    assert one.rows[2]["loss"] != two.rows[2]["loss"]
