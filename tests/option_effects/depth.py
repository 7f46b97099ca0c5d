"""Options of Mixture of Depths."""

from __future__ import annotations

import io

import pytest

from lumina.observe.console import Console
from lumina.train import Trainer
from option_effects import shows
from tiny_runs import Run, Runs

DEPTH = {"use_mod": True, "mod_pattern": "all"}


def chosen(run: Run) -> list[list[float]]:
    return run.column("mod.selected_ratio")


def near(share: float, run: Run, step: int) -> bool:
    """Places are a share of whole rows, of which padding needs none."""
    tokens = [0, *run.column("tokens")]
    places = share * 4 * 32 / (tokens[step] - tokens[step - 1])
    ratios = chosen(run)[step - 1]
    return ratios == pytest.approx([min(1.0, places)] * len(ratios), abs=0.06)


@pytest.mark.covers("MOD-28: top fraction mod_capacity_factor takes the full MLP")
@shows("use_mod")
def depth(runs: Runs) -> None:
    dense, sparse = runs.both("use_mod", False, True)
    routers = [name for name in sparse.tensors if ".depth.router" in name]
    assert len(routers) == 1 and not chosen(dense)
    assert near(0.5, sparse, 1)


@pytest.mark.covers("MOD-28: top fraction mod_capacity_factor takes the full MLP")
@shows("mod_capacity_factor")
def capacity(runs: Runs) -> None:
    for share in (0.125, 0.375):
        run = runs.train(mod_capacity_factor=share, **DEPTH)
        assert near(share, run, 1)


@pytest.mark.covers("MOD-29")
@shows("mod_capacity_schedule")
def schedule(runs: Runs) -> None:
    """The documents' shares of early, middle and late steps; and others."""
    shares = (0.75, 0.55, 0.45)
    run = runs.train(mod_capacity_schedule=shares, steps=6, **DEPTH)
    for step in range(1, 7):
        assert near(shares[(step - 1) // 2], run, step)
    run = runs.train(mod_capacity_schedule=(0.75, 0.25), steps=4, **DEPTH)
    for step, share in enumerate((0.75, 0.75, 0.25, 0.25), start=1):
        assert near(share, run, step)


@shows("mod_capacity_ladder")
def ladder(runs: Runs) -> None:
    """Off the ladder a change assembles another program; on it, the same goes on."""
    seconds = {}
    for shares in ((), (0.25,)):
        config = runs.config(mod_capacity_ladder=shares, steps=4, **DEPTH)
        console = Console(stream=io.StringIO(), live=False)
        trainer = Trainer(config, console=console, on_step=_ask_once)
        run = Run(trainer.train(), "")
        (change,) = [e for e in run.events if e["kind"] == "control"]
        assert change["data"]["outcome"] == "applied"
        assert near(0.5, run, 1) and near(0.25, run, 4)
        seconds[shares] = change["data"]["seconds"]
    assert seconds[()] and not seconds[(0.25,)]


def _ask_once(trainer, row) -> None:
    if row["step"] == 1:
        trainer.adjust_mod_capacity(0.25)


@pytest.mark.covers("MOD-31: MoE in expert layers, MoD on dense layers")
@shows("mod_pattern")
def pattern(runs: Runs) -> None:
    def layers(**leaves: object) -> str:
        run = runs.train(use_mod=True, num_layers=4, steps=1, **leaves)
        return "".join(
            sorted(n.split(".")[2] for n in run.tensors if ".depth.router" in n)
        )

    experts = {
        "use_moe": True,
        "num_experts": 4,
        "moe_intermediate_size": 16,
        "moe_pattern": "sandwich",
    }
    assert layers(mod_pattern="alternate") == "13"
    assert layers(mod_pattern="all") == "0123"
    assert layers(mod_pattern="dense", **experts) == layers(**experts) == "03"


@shows("mod_scope")
def scope(runs: Runs) -> None:
    block, feedforward = runs.both("mod_scope", "block", "feedforward", **DEPTH)
    assert block.first_loss != feedforward.first_loss
    saved = [run.rows[0]["mod.flops_reduction"] for run in (block, feedforward)]
    assert saved[0] > saved[1] > 0


@pytest.mark.covers("MOD-28: mod_routing_strategy learned, fixed, random")
@shows("mod_routing_strategy")
def strategy(runs: Runs) -> None:
    losses = set()
    for name in ("learned", "fixed", "random"):
        run = runs.train(mod_routing_strategy=name, **DEPTH)
        assert any(".depth." in n for n in run.tensors) == (name == "learned")
        losses.add(run.first_loss)
    assert len(losses) == 3


@shows("mod_mode")
def mode(runs: Runs) -> None:
    dynamic, static = runs.both("mod_mode", "dynamic", "static", **DEPTH)
    assert chosen(dynamic) and not chosen(static)
    assert dynamic.first_loss != static.first_loss


@shows("mod_predictor_weight")
def predictor(runs: Runs) -> None:
    """Nothing but its own loss trains the predictor."""
    off, on = runs.both("mod_predictor_weight", 0.0, 0.1, num_layers=2, use_mod=True)
    start = runs.train(num_layers=2, use_mod=True, learning_rate=1e-12)
    name = "depth.predictor.bias"
    assert off.tensor(name) == pytest.approx(start.tensor(name), abs=1e-7)
    assert abs(on.tensor(name) - start.tensor(name)) > 1e-4
