"""Options of registered parts: parameters and losses of another model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from option_effects import shows
from tiny_runs import Runs

OWN = str(Path(__file__).parents[1] / "own_parts.py")


def mine(runs: Runs, **leaves: object):
    return runs.train(**({"plugins": (OWN,)} | leaves))


@shows("plugins")
def plugins(runs: Runs) -> None:
    """Another file's part of another name; it is not there before it is named."""
    file = runs.folder / "another.py"
    name = f"another_{abs(hash(str(runs.folder)))}"
    file.write_text(
        "import lumina\n"
        "from lumina.model.layers import FeedForward\n"
        f"@lumina.register_feedforward({name!r})\n"
        "class Mine(FeedForward):\n"
        "    def __init__(self, spec, layer_index):\n"
        "        super().__init__(spec, 80)\n"
        "    def forward(self, x, context):\n"
        "        return super().forward(x)\n"
    )
    assert "no such feedforward" in runs.refused("E005", feedforward_type=(name,))
    run = runs.train(plugins=(str(file),), feedforward_type=(name,), num_layers=1)
    assert run.tensor("feedforward.gate_up.weight").shape == (160, 32)
    assert any(module.startswith("lumina_plugin_another") for module in sys.modules)


@pytest.mark.covers(
    "MOD-35: user class substituted for the transformer block through a factory hook"
)
@shows("block_type")
def block(runs: Runs) -> None:
    run = mine(runs, block_type=("standard", "parallel"))
    assert run.tensor("blocks.1.inner.gate").shape == (2,)
    assert run.tensor("blocks.0.attention.q.weight").shape == (32, 32)
    assert run.first_loss != runs.train().first_loss


@shows("attention_type")
def attention(runs: Runs) -> None:
    example = Path(__file__).parents[2] / "examples" / "gated_linear_attention.py"
    run = runs.train(plugins=(str(example),), attention_type=("gated_linear",))
    assert run.tensor("blocks.1.attention.decay_down.weight").shape == (16, 32)
    assert 0 < run.rows[0]["gated_linear.decay"] < 1
    assert run.first_loss != runs.train().first_loss


@shows("feedforward_type", "part_options")
def feedforward(runs: Runs) -> None:
    run = mine(runs, feedforward_type=("relu_squared", "standard"))
    assert run.tensor("blocks.0.feedforward.up.weight").shape == (64, 32)
    assert run.tensor("blocks.1.feedforward.gate.weight").shape == (64, 32)
    wide = mine(
        runs, feedforward_type=("relu_squared",),
        part_options=("relu_squared.width=96", "relu_squared.power=1"),
    )  # fmt: skip
    assert wide.tensor("blocks.1.feedforward.up.weight").shape == (96, 32)
    assert 0 < wide.rows[0]["relu_squared.active"] < 1


@shows("backbone")
def backbone(runs: Runs) -> None:
    run = mine(runs, backbone="running_mean")
    assert run.tensor("backbone.blocks.0.weight").shape == (32, 64)


@shows("objective")
def objective(runs: Runs) -> None:
    """The loss that is shown stays cross entropy; what is learned changes."""
    plain, focal = runs.train(steps=1), mine(runs, objective="focal", steps=1)
    assert focal.first_loss == pytest.approx(plain.first_loss, rel=1e-5)
    assert focal.rows[0]["grad_norm"] != pytest.approx(plain.rows[0]["grad_norm"])
    z = mine(runs, objective="z_loss", steps=1)
    assert z.first_loss == pytest.approx(plain.first_loss, rel=1e-5)
    assert z.rows[0]["z_loss.z"] > 1
