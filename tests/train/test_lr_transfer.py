"""Rates that carry over: the coordinate check, the table of factors, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lumina.assemble.model import build_model
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.declared import declared
from lumina.optim.declared import chosen_optimizer
from lumina.plan.environment import Environment
from lumina.plan.transfer import first_factor, rate_factor
from lumina.train.lr_transfer import Shape, chain_for, movement, program_of
from machines import cpu, plan_for
from tiny_runs import EXPERTS, Runs

STEPS = 4


def moved(
    width: int, layers: int, machine: Environment, **leaves: Any
) -> dict[str, float]:
    more = {"head_dim": 16, "num_heads": width // 16, "seq_length": 16}
    more |= {"batch_size": 8, "precision": "fp32", "lr_scheduler": "constant"}
    more |= {"warmup_steps": 0, "warmup_ratio": None} | leaves
    rate = more.pop("learning_rate", 4e-3)
    program = program_of(Shape(width, layers), rate, 10, machine, **more)
    return movement(program, chain_for(program, STEPS), STEPS)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        pytest.param({"optimizer": "muon"}, marks=pytest.mark.thorough),
        pytest.param(
            {"optimizer": "lion", "learning_rate": 4e-4}, marks=pytest.mark.thorough
        ),
        pytest.param(
            EXPERTS | {"moe_intermediate_size": None}, marks=pytest.mark.thorough
        ),
    ],
)
def test_what_a_step_moves_does_not_depend_on_the_width(kind: dict[str, Any]) -> None:
    """Coordinate check: four times the width, with and without a rate carried over."""
    machine = cpu()
    base, wide = moved(32, 2, machine, **kind), moved(128, 2, machine, **kind)
    carried = kind | {"lr_transfer": "mup", "base_width": 32}
    same, held = moved(32, 2, machine, **carried), moved(128, 2, machine, **carried)
    assert same == base  # the base is as it always was
    for name in ("block 0", "block 1", "norm"):
        assert 0.6 < held[name] / base[name] < 1.4, (name, held, base)
    assert wide["block 1"] > 1.8 * base["block 1"]
    assert held["logits"] < 1.2 * base["logits"] < wide["logits"]


def test_what_a_step_moves_does_not_depend_on_the_depth() -> None:
    machine = cpu()
    carried = {"lr_transfer": "completep", "base_width": 32, "base_depth": 2}
    base = moved(32, 2, machine)["norm"]
    assert moved(32, 2, machine, **carried)["norm"] == base
    assert moved(32, 8, machine)["norm"] > 1.25 * base
    assert moved(32, 8, machine, **carried)["norm"] == pytest.approx(base, rel=0.15)


FACTORS = {
    "backbone.embedding.weight": (1, 1, 1),
    "backbone.norm.weight": (1, 1, 1),
    "backbone.blocks.0.attention.qkv.weight": (1 / 2, 1 / 4, 1 / 2),
    "backbone.blocks.0.attention.out.weight": (
        1 / 2 / math.sqrt(3), 1 / 12, 1 / 6,
    ),
    "backbone.blocks.1.feedforward.gate_up": (1 / 2, 1 / 4, 1 / 2),
    "backbone.blocks.1.feedforward.down": (1 / 2 / math.sqrt(3), 1 / 12, 1 / 6),
    "backbone.blocks.1.feedforward.router.weight": (1 / 4, 1 / 4, None),
    "objective.head.weight": (1 / 4, 1 / 4, None),
}  # fmt: skip
"""Four times the width, three times the depth: first value, AdamW's and Muon's rate."""


def test_the_table_of_factors() -> None:
    config = Config(
        vocab_size=64, hidden_size=128, num_heads=8, num_layers=6, **EXPERTS
    )
    tensors = declared(plan_for(config.replace(steps=10)).spec)
    carried = {"mode": "completep", "width": 4.0, "depth": 3.0}
    adamw, muon = chosen_optimizer("adamw"), chosen_optimizer("muon")
    for name, (first, rate, orthogonal) in FACTORS.items():
        tensor = tensors[name]
        assert first_factor(carried, tensor) == pytest.approx(first), name
        assert rate_factor(carried, tensor, adamw, {}) == pytest.approx(rate), name
        if orthogonal is not None:
            found = rate_factor(carried, tensor, muon, {"scale": "adamw"})
            assert found == pytest.approx(orthogonal), name
            by_shape = rate_factor(carried, tensor, muon, {"scale": "shape"})
            inner = tensor.role in ("matrix", "expert")
            assert by_shape == pytest.approx(rate * 4 if inner else 1), name
        assert first_factor({}, tensor) == rate_factor({}, tensor, adamw, {}) == 1


@pytest.mark.thorough
def test_weights_rates_and_decays_of_a_run(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first weights, and after one step of Adam the rate of each tensor."""
    runs = Runs(tmp_path, monkeypatch)
    shape = {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16}
    carried = {"lr_transfer": "mup", "base_width": 16}
    tiny = {"learning_rate": 1e-9, "weight_decay": 0.0, "steps": 1}
    plain = runs.train(**shape, **tiny).tensors
    first = runs.train(**shape, **carried, **tiny).tensors
    one = {"steps": 1, "learning_rate": 1e-3, "weight_decay": 0.0, "eps": 1e-12}
    stepped = runs.train(**shape, **carried, **one).tensors
    decayed = runs.train(**shape, **carried, **(one | {"weight_decay": 10.0})).tensors
    config = runs.config(
        **shape, **carried, vocab_size=len(plain["objective.head.weight"])
    )
    built = dict(build_model(config).named_parameters())
    for name, scale, rate in (
        ("objective.head.weight", 1 / 4, 1 / 4),
        ("backbone.blocks.0.attention.out.weight", 1 / 2, 1 / 4),
        ("backbone.embedding.weight", 1, 1),
    ):
        assert torch.allclose(first[name], scale * plain[name], atol=1e-7), name
        assert torch.allclose(built[name][: len(first[name])], first[name], atol=1e-7)
        step = (stepped[name] - first[name]).abs()
        assert step.max().item() == pytest.approx(1e-3 * rate, rel=0.01), name
        gone = stepped[name] - decayed[name]
        if "embedding" not in name:  # rate times decay is the same for all matrices
            assert torch.allclose(gone, 1e-2 * first[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_width": None}, "base_width is not set"),
        ({"base_depth": 2}, "width alone"),
        ({"tie_embeddings": True}, "tie_embeddings"),
        ({"scale_embeddings": True}, "scale_embeddings"),
        ({"use_stable_embedding": True}, "use_stable_embedding"),
        ({"use_mod": True}, "use_mod"),
        ({"use_mor": True, "num_layers": 4}, "use_mor"),
        ({"mla_kv_rank": 8}, "mla_kv_rank"),
        ({"base_width": 40}, "no whole number of heads"),
        ({"optimizer": "sgd"}, "not known of the optimizer sgd"),
    ],
)
def test_what_does_not_carry_over_is_refused(
    options: dict[str, Any], words: str
) -> None:
    start = {"lr_transfer": "mup", "base_width": 32, "hidden_size": 64, "steps": 10}
    start |= {"num_heads": 4, "vocab_size": 64}
    with pytest.raises(LuminaError, match=words) as caught:
        plan_for(Config(**(start | options)))
    assert caught.value.code == "E002"
