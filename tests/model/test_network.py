"""The whole network: initial weights, meta building, padded vocabulary, cache."""

from __future__ import annotations

import math

import pytest
import torch

import lumina
from lumina.batch import Batch
from lumina.infer.cache import KVCache
from lumina.model.build import build_network
from lumina.model.network import Network
from lumina.model.spec import MoeSpec
from networks import packed_batch, random_ids, shifted, tiny_spec

MOE = MoeSpec(
    num_experts=4, top_k=2, intermediate_size=24, layers=(1,), bias_update_rate=0.01
)


def test_init_std_sets_the_spread_and_depth_tames_the_residual():
    spec = tiny_spec(hidden_size=128, init_std=0.015, num_layers=8)
    state = build_network(spec, seed=3).state_dict()
    for name, tensor in state.items():
        if name.endswith("norm.weight"):
            assert (tensor == 1).all()
            continue
        std = 0.015
        if name.endswith(("attention.out.weight", "feedforward.down.weight")):
            std /= math.sqrt(2 * 8)
        assert abs(tensor.std().item() / std - 1) < 0.06, name
        assert abs(tensor.mean().item()) < 0.1 * std, name


@pytest.mark.parametrize("moe", [None, MOE])
def test_initial_weights_depend_on_seed_and_name_alone(moe):
    spec = tiny_spec(moe=moe)
    first = build_network(spec, seed=1)
    torch.manual_seed(999)
    later = build_network(spec, device="meta").to_empty(device="cpu")
    for tensor in later.state_dict().values():
        tensor.fill_(float("nan"))
    later.initialise(1)
    torch.testing.assert_close(later.state_dict(), first.state_dict(), rtol=0, atol=0)
    # One at a time and in any order.
    for name in reversed(first.state_dict()):
        alone = build_network(spec, device="meta").initial_value(name, 1)
        torch.testing.assert_close(alone, first.state_dict()[name], rtol=0, atol=0)
    other = build_network(spec, seed=2)
    assert (other.backbone.embedding.weight != first.backbone.embedding.weight).all()


def test_no_two_matrices_start_alike():
    network = build_network(tiny_spec(num_layers=3))
    blocks = network.backbone.blocks
    a, b = blocks[0].attention.qkv.weight, blocks[2].attention.qkv.weight
    assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.1


def test_a_routed_layer_starts_even_after_to_empty():
    network = build_network(tiny_spec(moe=MOE))
    layer = network.backbone.blocks[1].feedforward
    assert (layer.load == 0.25).all()
    assert (layer.selection_bias == 0).all()


def test_random_weights_guess_uniformly():
    """A fresh network is at ln V, padded vocabulary or not."""
    spec = tiny_spec(init_std=0.02)
    ids = random_ids(4, 24)
    sums, _ = build_network(spec)(Batch.from_rows(ids, shifted(ids)))
    loss = sums.loss_sum / sums.weight_sum
    assert abs(loss.item() - math.log(100)) < 0.05


def test_three_hundred_billion_weights_fit_on_meta():
    moe = MoeSpec(64, 4, 8192, tuple(range(48)))
    network = build_network(
        tiny_spec(
            hidden_size=4096,
            num_layers=48,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
            intermediate_size=8192,
            moe=moe,
        ),
        device="meta",
    )
    assert isinstance(network, Network)
    assert sum(p.numel() for p in network.parameters()) > 300e9
    assert {p.device.type for p in network.parameters()} == {"meta"}


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_shapes_flow_through_a_meta_network(tie_embeddings):
    network = build_network(tiny_spec(tie_embeddings=tie_embeddings), device="meta")
    ids = torch.zeros(2, 24, dtype=torch.long, device="meta")
    assert network.logits(ids).shape == (2, 24, 100)


@pytest.mark.covers("TOK-05")
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_padding_the_vocabulary_changes_nothing(tie_embeddings):
    ids = random_ids(2, 24)
    batch = Batch.from_rows(ids, shifted(ids))
    values = build_network(tiny_spec()).backbone.embedding.weight.detach()
    results = []
    for rows in (100, 128):
        spec = tiny_spec(padded_vocab_size=rows, tie_embeddings=tie_embeddings)
        network = build_network(spec)
        with torch.no_grad():
            for p in network.parameters():
                if p.shape[0] == rows:
                    p[:100] = values[:100]
                    p[100:] = 50.0  # would win every softmax
        logits = network.logits(ids)
        assert logits.shape == (2, 24, 100)
        sums, _ = network(batch)
        sums.loss_sum.backward()
        gradient = network.backbone.embedding.weight.grad
        assert (gradient[100:] == 0).all()
        results.append((logits, sums.loss_sum, gradient[:100]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_tied_embeddings_are_one_parameter_with_both_gradients():
    network = build_network(tiny_spec(tie_embeddings=True))
    names = [name for name, _ in network.named_parameters()]
    assert "objective.head.weight" not in names
    ids = torch.full((1, 8), 7)
    sums, _ = network(Batch.from_rows(ids, torch.full((1, 8), 9)))
    sums.loss_sum.backward()
    moved = network.backbone.embedding.weight.grad.abs().sum(1) > 0
    assert moved[:100].all()  # the softmax pushes on every word that exists


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("attention", ["sdpa", "reference", "varlen"])
def test_cached_logits_equal_the_whole_sequence(attention, window):
    network = build_network(tiny_spec(window_size=window), attention=attention).eval()
    ids = random_ids(2, 24)
    whole = network.logits(ids)
    cache, got = KVCache(2, window=window), []
    for part in ids.split([9, 1, 1, 6, 1, 6], dim=1):
        got.append(network.logits(part, cache))
    torch.testing.assert_close(torch.cat(got, dim=1), whole, rtol=1e-5, atol=1e-5)


def test_the_last_logits_can_be_had_alone():
    network = build_network(tiny_spec())
    ids = random_ids(2, 24)
    last = network.logits(ids, last_only=True)
    torch.testing.assert_close(last, network.logits(ids)[:, -1:])


def test_loss_weights_scale_each_token():
    network = build_network(tiny_spec())
    batch = packed_batch([[8, 10, 6], [20]], 24)
    plain, _ = network(batch)
    values = dict(vars(batch))
    doubled, _ = network(
        Batch(**values | {"loss_weights": torch.full(batch.labels.shape, 2.0)})
    )
    torch.testing.assert_close(doubled.loss_sum, plain.loss_sum * 2)
    torch.testing.assert_close(doubled.weight_sum, plain.weight_sum * 2)


def test_routed_layers_report_under_fixed_names():
    moe = MoeSpec(num_experts=4, top_k=2, intermediate_size=24, layers=(0, 2))
    network = build_network(tiny_spec(num_layers=3, moe=moe))
    batch = packed_batch([[8, 10, 6], [20]], 24)
    _, aux = network(batch)
    shapes = {name: tuple(value.shape) for name, value in aux.items()}
    assert shapes == {
        "moe.balance_loss": (),
        "moe.z_loss": (),
        "moe.counts": (2, 4),
        "moe.dropped": (2,),
        "moe.probability": (2, 4),
        "moe.router": (2, 3),
    }
    assert (aux["moe.counts"].sum(1) == 44 * 2).all()  # the four of padding are not in
    _, nothing = build_network(tiny_spec())(batch)
    assert nothing == {}


def test_build_model_follows_the_configuration():
    config = lumina.ConfigPresets.debug().replace(
        vocab_size=300, use_moe=False, hidden_size=64, num_layers=3, seed=5
    )
    model = lumina.build_model(config)
    assert len(model.backbone.blocks) == 3
    assert not any("router" in name for name in model.state_dict())
    logits = model.logits(random_ids(2, 8))
    assert logits.shape == (2, 8, 300) and logits.dtype == torch.float32
    again = lumina.build_model(config)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.gpu
def test_initial_weights_are_the_same_on_a_gpu():
    cpu, gpu = (build_network(tiny_spec(moe=MOE), device=d) for d in ("cpu", "cuda"))
    state = {name: tensor.cpu() for name, tensor in gpu.state_dict().items()}
    torch.testing.assert_close(state, dict(cpu.state_dict()), rtol=0, atol=0)
