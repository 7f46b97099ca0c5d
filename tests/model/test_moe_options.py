"""The MoE options through the public interface: each changes what a run does."""

from __future__ import annotations

import json

import pytest
import torch

import lumina
from lumina.batch import Batch
from lumina.config import Source
from lumina.model.moe import routed_layers
from machines import gpu, plan_for

MOE = {"use_moe": True, "num_experts": 4, "moe_top_k": 2, "vocab_size": 96}


def train(config, folder, **options):
    """Train, and return the rows of metrics.jsonl."""
    config = config.replace(use_moe=True, run_dir=str(folder), **options)
    lumina.Trainer(config).train()
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def loss_and_counts(model, rows=2, length=16):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 90, (rows, length + 1), generator=g)
    sums, aux = model(
        Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    )
    return sums.loss_sum, aux["moe.counts"]


@pytest.mark.covers(
    "MOD-15: num_experts",
    "MOD-15: moe_top_k / --num-experts-per-tok (default 2)",
    "MOD-15: supported counts 4 to 144",
)
@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (8, 2), (64, 8), (144, 2)])
def test_number_of_experts_and_choices(tiny_config, experts, top_k):
    config = tiny_config.replace(
        **MOE | {"num_experts": experts, "moe_top_k": top_k}, moe_intermediate_size=8
    )
    model = lumina.build_model(config)
    _, counts = loss_and_counts(model)
    assert counts.shape == (2, experts)
    assert counts.sum(dim=1).tolist() == [32 * top_k] * 2
    assert model.backbone.blocks[0].feedforward.down.shape == (experts, 32, 8)


@pytest.mark.covers("MOD-16")
@pytest.mark.parametrize(
    ("pattern", "routed"),
    [("all", [0, 1, 2, 3]), ("interleaved", [1, 3]), ("sandwich", [1, 2])],
)
def test_patterns_place_experts_in_these_layers(tiny_config, pattern, routed):
    config = tiny_config.replace(**MOE, num_layers=4, moe_pattern=pattern)
    model = lumina.build_model(config)
    assert [layer.layer_index for layer in routed_layers(model)] == routed
    loss, counts = loss_and_counts(model)
    loss.backward()
    assert counts.shape == (len(routed), 4) and (counts.sum(1) == 64).all()
    for index, block in enumerate(model.backbone.blocks):
        assert hasattr(block.feedforward, "router") == (index in routed)
        assert all(p.grad.norm() > 0 for p in block.parameters())


@pytest.mark.covers("MOD-17: load_balancing_weight")
def test_load_balancing_weight_evens_the_load(tiny_config, tmp_path):
    """The same run with and without it: the spread of the experts' load shrinks."""
    spread = {}
    for weight in (0.0, 1.0):
        rows = train(
            tiny_config.replace(steps=25, init_std=0.08),
            tmp_path / f"weight-{weight}",
            num_experts=4,
            moe_top_k=1,
            moe_normalise_top_k=False,
            load_balancing_weight=weight,
        )
        last = [max(row["moe.max_violation"]) for row in rows[-10:]]
        spread[weight] = sum(last) / len(last)
    assert spread[1.0] < 0.75 * spread[0.0], spread


@pytest.mark.covers(
    "MOD-18: capacity_factor / --capacity-factor",
    "MOD-18: overflow tokens dropped",
    "MOD-18: kept",
)
def test_capacity_factor_decides_what_is_dropped(tiny_config, tmp_path):
    def dropped(**options):
        name = "-".join(map(str, options.values()))
        rows = train(
            tiny_config.replace(steps=1, warmup_steps=0), tmp_path / name, **options
        )
        return max(rows[0]["moe.dropped_fraction"])

    capacity = {"moe_dispatch": "capacity"}
    tight = dropped(**capacity, capacity_factor=0.5)
    loose = dropped(**capacity, capacity_factor=1.0)
    assert tight >= 0.5 > loose > 0
    assert dropped(**capacity, capacity_factor=4.0) == 0
    assert dropped(moe_dispatch="dropless") == 0


@pytest.mark.covers(
    "MOD-22: independent parameters and gradient flow per expert",
    "MOD-22: inactive experts receive no gradient",
)
def test_experts_are_independent_and_idle_ones_get_no_gradient(tiny_config):
    model = lumina.build_model(
        tiny_config.replace(**MOE | {"num_experts": 16, "moe_top_k": 1})
    )
    layer = model.backbone.blocks[0].feedforward
    assert not torch.equal(layer.gate_up[0], layer.gate_up[1])
    loss, counts = loss_and_counts(model, rows=1, length=6)
    loss.backward()
    used = counts[0] > 0
    assert 0 < used.sum() < 16
    for parameter in (layer.gate_up, layer.down):
        norms = parameter.grad.flatten(1).norm(dim=1)
        assert (norms[used] > 0).all() and (norms[~used] == 0).all()


@pytest.mark.covers("MOD-22: gradient clipping covers router and experts")
def test_clipping_covers_router_and_experts(tiny_config, tmp_path):
    """The logged norm is that of all gradients, the router's and experts' too."""
    config = tiny_config.replace(steps=1, warmup_steps=0, num_experts=4)
    rows = train(config, tmp_path / "run")
    from lumina.data.packed_stream import BatchStream
    from lumina.data.prepare import prepare

    config = config.replace(use_moe=True)
    prepared = prepare(config)
    stream = BatchStream(
        prepared.train, seq_length=32, global_batch_size=4, seed=1, epochs=None
    )
    step = stream.step(stream.start, rank=0, data_ranks=1, micro_batch_size=4)
    config = config.replace(vocab_size=prepared.tokenizer.vocab_size)
    model = lumina.build_model(config)
    sums, aux = model(step.micro_batches[0])
    share = 1 / (step.tokens * 2)
    loss = sums.loss_sum / step.loss_tokens
    loss = loss + 0.005 * share * aux["moe.balance_loss"]
    (loss + 0.001 * share * aux["moe.z_loss"]).backward()
    norms = {n: p.grad.norm() for n, p in model.named_parameters()}
    total = torch.stack(list(norms.values())).norm()
    assert rows[0]["grad_norm"] == pytest.approx(total.item(), rel=1e-4)
    experts = [v for n, v in norms.items() if "feedforward" in n and "norm" not in n]
    assert torch.stack(experts).norm() > 0.01 * total


def test_a_single_renormalised_choice_is_warned_of(tiny_config):
    """Its weight is always one: the router would learn nothing from the loss."""
    single = tiny_config.replace(**MOE | {"moe_top_k": 1})
    assert any("moe_normalise_top_k" in text for text in single.warnings())
    layer = lumina.build_model(single.replace(moe_normalise_top_k=False))
    loss, _ = loss_and_counts(layer)
    loss.backward()
    router = layer.backbone.blocks[0].feedforward.router.weight
    assert router.grad.norm() > 1e-4
    for config in (single.replace(moe_normalise_top_k=False), tiny_config):
        assert not any("moe_normalise_top_k" in text for text in config.warnings())


@pytest.mark.covers(
    "MTX-15: MoE (4) + checkpointing", "MTX-15: routing recompute identical"
)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_recomputed_layers_route_the_same(tiny_config, tmp_path, noise):
    """Checkpointing changes no loss and no expert's load, to the last bit; also where
    the router is noisy, which the second computation must repeat."""
    kept = ("loss", "grad_norm", "moe.load", "moe.z_loss", "moe.dropped_fraction")
    runs = []
    for mode in ("none", "full", "selective"):
        rows = train(
            tiny_config.replace(steps=4, num_experts=4, gradient_checkpointing=mode),
            tmp_path / mode,
            router_jitter_noise=noise,
            expert_dropout=noise,
        )
        runs.append([[row[key] for key in kept] for row in rows])
    assert runs[0] == runs[1] == runs[2]


def test_micro_batches_do_not_change_routed_training(tiny_config, tmp_path):
    """The balance loss uses the load of the step before: any split is the same."""
    config = tiny_config.replace(steps=4, num_experts=4, load_balancing_weight=0.1)
    whole = train(config, tmp_path / "whole")
    config = config.replace(batch_size=1, grad_accum=4)
    split = train(config, tmp_path / "split")
    for a, b in zip(whole, split, strict=True):
        for key in ("loss", "grad_norm", "moe.balance_loss", "moe.z_loss"):
            assert a[key] == pytest.approx(b[key], rel=1e-4), key
    assert [a["moe.load"] for a in whole] == [b["moe.load"] for b in split]


@pytest.mark.covers("MOD-18: default 1.25")
def test_the_capacity_factor_is_1_25_of_8_experts_and_follows_their_number():
    """Of models between 35M and 2B parameters, which have 8 experts by default."""
    factors = {4: 1.1, 8: 1.25, 12: 1.25, 16: 1.5, 64: 1.8, 144: 2.8}
    for experts, factor in factors.items():
        config = lumina.Config(
            use_moe=True, num_experts=experts, moe_dispatch="capacity", vocab_size=64
        )
        assert plan_for(config).spec.moe.capacity_factor == factor
    config = lumina.ConfigPresets.get("m120_speed").replace(
        use_moe=True, num_experts=None, moe_dispatch="capacity", capacity_factor=None
    )
    moe = plan_for(config, gpu()).spec.moe
    assert (moe.num_experts, moe.capacity_factor) == (8, 1.25)


@pytest.mark.covers("MOD-18: drop_tokens true/false")
def test_the_switch_of_the_documents_drops_or_keeps(tiny_config, tmp_path):
    few = {"num_experts": 4, "steps": 1, "warmup_steps": 0}
    dropped = {}
    for value in (True, False, "on", "no"):
        config = tiny_config.override({"drop_tokens": value, **few}, Source("python"))
        config = config.override({"capacity_factor": 0.25}, Source("python"))
        rows = train(config, tmp_path / str(value))
        dropped[value] = max(rows[0]["moe.dropped_fraction"])
    assert dropped[True] == dropped["on"] > 0
    assert dropped[False] == dropped["no"] == 0
