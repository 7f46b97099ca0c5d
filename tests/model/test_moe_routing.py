"""Scores, shared experts and exploration of the routed layer; the scale table."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import lumina
from lumina.batch import Batch
from lumina.model.build import build_network
from lumina.model.expert_buffers import LIVE_BUFFERS
from lumina.model.moe import MoeFeedForward
from lumina.model.spec import MoeSpec
from lumina.plan.count import count_parameters
from lumina.plan.shape import resolve_spec
from networks import random_ids, tiny_spec


def make_layer(seed=0, **moe):
    values = {"num_experts": 8, "top_k": 2, "intermediate_size": 24, "layers": (0,)}
    layer = MoeFeedForward(tiny_spec(moe=MoeSpec(**(values | moe))), 0)
    g = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.3, generator=g)
    return layer


def tokens(rows=3, length=16, seed=1):
    return torch.randn(rows, length, 32, generator=torch.Generator().manual_seed(seed))


def expert(layer, index, x):
    gate, up = F.linear(x, layer.gate_up[index]).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, layer.down[index])


@pytest.mark.parametrize("normalise", [True, False])
def test_sigmoid_scores_are_each_experts_own(normalise):
    """DeepSeek-V3: chosen by score, weighed by their share of the chosen, scaled."""
    layer = make_layer(score="sigmoid", score_scale=2.5, normalise_top_k=normalise)
    x = tokens(1, 4)
    y = layer(x)[0][0]
    for t in range(4):
        scores = F.linear(x[0, t], layer.router.weight).sigmoid()
        best = scores.topk(2).indices
        weights = scores[best]
        if normalise:
            weights = weights / weights.sum()
        wanted = sum(
            2.5 * w * expert(layer, e, x[0, t])
            for w, e in zip(weights, best, strict=True)
        )
        torch.testing.assert_close(y[t], wanted, rtol=1e-5, atol=1e-5)


def test_sigmoid_router_learns_from_output_and_balance():
    layer = make_layer(score="sigmoid")
    for loss in (
        lambda y, aux: y.square().sum(),
        lambda y, aux: aux["moe.balance_loss"],
    ):
        layer.zero_grad()
        layer.load.copy_(torch.arange(8.0) / 28)
        loss(*layer(tokens())).backward()
        assert layer.router.weight.grad.norm() > 1e-3


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_shared_experts_take_every_token(dispatch):
    """They add their output whatever the router does, also where tokens drop."""
    layer = make_layer(shared_experts=2, dispatch=dispatch, capacity_factor=0.3)
    bare = make_layer(dispatch=dispatch, capacity_factor=0.3)
    own = {k: v for k, v in layer.state_dict().items() if "shared" not in k}
    bare.load_state_dict(own)
    assert layer.shared.down.weight.shape == (32, 2 * 24)
    x = tokens()
    torch.testing.assert_close(layer(x)[0], bare(x)[0] + layer.shared(x))
    layer(x)[0].square().sum().backward()
    assert layer.shared.gate_up.weight.grad.norm() > 0


def test_a_network_with_shared_experts_is_counted_and_split_exactly():
    moe = MoeSpec(8, 2, 24, (1,), score="sigmoid", shared_experts=1)
    network = build_network(tiny_spec(moe=moe))
    counts = count_parameters(network.spec)
    assert counts.total == sum(p.numel() for p in network.parameters())
    shared = sum(p.numel() for n, p in network.named_parameters() if "shared" in n)
    assert shared == 3 * 24 * 32 and counts.active > counts.total - counts.experts
    batch = Batch.from_rows(random_ids(2, 24), random_ids(2, 24, seed=1))
    losses, _ = network(batch)
    losses.loss_sum.backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.covers("MOD-17: auxiliary load-balancing loss")
def test_balance_scope():
    """By micro-batch its own shares count; globally those in the buffer."""
    x = tokens()
    for scope, moves in (("global", True), ("micro_batch", False)):
        layer = make_layer(balance_scope=scope)
        even = layer(x)[1]["moe.balance_loss"]
        layer.load.copy_(F.one_hot(torch.tensor(3), 8).float())
        skewed = layer(x)[1]["moe.balance_loss"]
        assert (even != skewed) == moves
    counts, probs = layer(x)[1]["moe.counts"], layer.route(x.reshape(-1, 32)).probs_te
    wanted = 8 * (counts / counts.sum() * probs.sum(0)).sum()
    torch.testing.assert_close(skewed, wanted)


@pytest.mark.covers("MOD-20: routing_temperature")
def test_temperature_divides_the_logits_always():
    layer, x = make_layer(), tokens().reshape(-1, 32)
    layer.temperature.fill_(2.0)
    for training in (True, False):
        routing = layer.train(training).route(x)
        wanted = (layer.router(x) / 2).softmax(-1)
        torch.testing.assert_close(routing.probs_te, wanted)


@pytest.mark.covers("MOD-20: router_jitter_noise")
def test_jitter_is_small_and_only_in_training():
    torch.manual_seed(0)
    layer, x = make_layer(jitter=0.1), tokens().reshape(-1, 32)
    plain = layer.router(x)
    one, two = layer.route(x).probs_te, layer.route(x).probs_te
    assert not torch.equal(one, two)

    # A logit is multiplied by one plus a number from -0.1 to 0.1; of two logits, the
    # noise is at most a tenth of both, and in so many draws nearly that once.
    def apart(logits):
        return logits[..., 1:] - logits[..., :1]

    drawn = torch.stack([layer.route(x).probs_te.log() for _ in range(100)])
    largest = 0.1 * (plain[:, 1:].abs() + plain[:, :1].abs())
    share = ((apart(drawn) - apart(plain)).abs() / largest).max().item()
    assert 0.95 < share < 1.01
    layer.eval()
    assert torch.equal(layer.route(x).probs_te, plain.softmax(-1))


@pytest.mark.covers("MOD-20: expert_dropout")
def test_expert_dropout_spreads_a_collapsed_router():
    """Hidden half the time, the favourite loses its tokens; k experts remain chosen."""
    torch.manual_seed(0)
    layer, x = make_layer(), torch.rand(40, 50, 32) + 0.1
    layer.router.weight.data[:2] = 1.0
    layer.router.weight.data[2:] *= 0.02

    def counts(chance):
        layer.expert_dropout.fill_(chance)
        counted = layer(x)[1]["moe.counts"]
        assert counted.sum() == 40 * 50 * 2
        return counted / counted.sum()

    assert counts(0.0)[:2].sum() == 1
    assert counts(0.5)[:2].sum() == pytest.approx(0.5, abs=0.03)
    assert counts(0.5).min() > 0.01
    # Hidden one time in five: 50,000 draws of each favourite, from both sides.
    kept = torch.stack([counts(0.2)[:2].sum() for _ in range(25)]).mean()
    assert kept.item() == pytest.approx(0.8, abs=0.005)
    counts(0.99)  # fewer experts than k are left: still k different ones
    ids = layer.route(x.reshape(-1, 32)).ids_tk
    assert (ids[:, 0] != ids[:, 1]).all()
    layer.eval()
    assert counts(0.5)[:2].sum() == 1


@pytest.mark.covers("MOD-18: overflow tokens dropped")
def test_capacity_share_takes_places_away():
    """A live share of the places drops what a layer built that small drops."""
    x = tokens(4, 32)
    wide = make_layer(dispatch="capacity", capacity_factor=2.0)
    for share, factor in ((1.0, 2.0), (0.5, 1.0), (0.25, 0.5), (0.3, 0.6)):
        narrow = make_layer(dispatch="capacity", capacity_factor=factor)
        wide.capacity_share.fill_(share)
        for found, wanted in zip(wide(x), narrow(x), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.covers("MOD-15: top-k routed SwiGLU experts")
@pytest.mark.parametrize(
    "moe", [{}, {"score": "sigmoid"}, {"groups": 4, "top_groups": 2}]
)
def test_the_choices_of_a_token_are_in_order(moe):
    layer, x = make_layer(top_k=4, **moe), tokens(8, 32).reshape(-1, 32)
    routing = layer.route(x)
    chosen = routing.probs_te.gather(1, routing.ids_tk)
    assert (chosen[:, :-1] > chosen[:, 1:]).all()


@pytest.mark.covers("MOD-18: overflow tokens dropped")
def test_a_first_choice_goes_before_anothers_second():
    """Two tokens at one position want expert 0, which has one place."""
    layer = make_layer(
        num_experts=4, dispatch="capacity", capacity_factor=1.0, normalise_top_k=False
    )
    layer.router.weight.data.zero_()
    layer.router.weight.data[:, :2] = torch.tensor(
        [[2.0, 3.0], [3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    )
    x = torch.zeros(2, 1, 32)
    x[0, 0, 0] = x[1, 0, 1] = 1.0
    layer.train()
    routing = layer.route(x.reshape(2, 32))
    assert routing.ids_tk.tolist() == [[1, 0], [0, 2]]
    y, aux = layer(x)
    assert aux["moe.dropped"] == 1
    (first, _), (second, third) = routing.scores_tk
    torch.testing.assert_close(y[0, 0], first * expert(layer, 1, x[0, 0]))
    both = second * expert(layer, 0, x[1, 0]) + third * expert(layer, 2, x[1, 0])
    torch.testing.assert_close(y[1, 0], both)


@pytest.mark.covers(
    "MOD-19: tight (factor 1.0, drop)", "MOD-19: loose (no drop)", "MOD-19: start 1.25"
)
@pytest.mark.parametrize(
    ("overflow", "places"), [("loose", None), ("tight", 1.0), ("adaptive", 1.25)]
)
def test_what_happens_to_the_tokens_of_a_collapsed_router(overflow, places):
    """All 128 tokens want experts 0 and 1 of 4: an even share is 64 for each."""
    config = lumina.Config(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_layers=2,
        num_heads=2, num_kv_heads=1, seq_length=32, use_moe=True, num_experts=4,
        moe_top_k=2, moe_intermediate_size=16, overflow=overflow,
    )  # fmt: skip
    network = build_network(resolve_spec(config), seed=1)
    for block in network.backbone.blocks:
        block.feedforward.routing_bias.copy_(torch.tensor([90.0, 80.0, 0.0, 0.0]))
    aux = network.train()(Batch.from_rows(random_ids(4, 32)))[1]
    assert aux["moe.counts"].tolist() == [[128, 128, 0, 0]] * 2
    lost = 0 if places is None else 2 * (128 - 64 * places)
    assert aux["moe.dropped"].tolist() == [lost] * 2


def test_live_scalars_do_not_recompile():
    torch.manual_seed(0)
    layer, x = make_layer(dispatch="capacity"), tokens()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    before = compiled(x)[1]
    made = len(graphs)
    layer.temperature.fill_(1.5)
    layer.jitter.fill_(0.1)
    layer.expert_dropout.fill_(0.2)
    layer.capacity_share.fill_(0.5)
    after = compiled(x)[1]
    assert len(graphs) == made > 0
    assert after["moe.dropped"] > before["moe.dropped"]
    torch.compiler.reset()


def test_live_scalars_are_in_no_file_and_always_set():
    spec = tiny_spec(moe=MoeSpec(4, 2, 16, (0, 1), temperature=1.25, jitter=0.5))
    for seed in (0, None):
        network = build_network(spec, seed=seed)
        assert not any(n.endswith(LIVE_BUFFERS) for n in network.state_dict())
        layer = network.backbone.blocks[1].feedforward
        assert (layer.temperature, layer.jitter) == (1.25, 0.5)
        assert (layer.expert_dropout, layer.capacity_share) == (0, 1)


@pytest.mark.covers("MOD-15: supported counts 4 to 144")
def test_four_to_256_experts():
    for experts, top_k in ((4, 1), (256, 8)):
        layer = make_layer(num_experts=experts, top_k=top_k, score="sigmoid")
        y, aux = layer(tokens())
        y.sum().backward()
        assert aux["moe.counts"].shape == (experts,)
        assert aux["moe.counts"].sum() == 48 * top_k


def test_first_dense(tiny_config):
    config = tiny_config.replace(
        use_moe=True, num_layers=6, vocab_size=96, moe_first_dense=2
    )
    assert resolve_spec(config).moe.layers == (2, 3, 4, 5)
    interleaved = config.replace(moe_pattern="interleaved")
    assert resolve_spec(interleaved).moe.layers == (3, 5)
    with pytest.raises(lumina.LuminaError) as caught:
        resolve_spec(config.replace(moe_first_dense=6))
    assert caught.value.code == "E002"


@pytest.mark.covers("MOD-21", "MOD-17: 0.005-0.035 by scale")
@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((64, 6, 2), (4, 1.1, 0.005)),
        ((768, 12, 12), (8, 1.25, 0.008)),
        ((3072, 28, 24), (16, 1.5, 0.01)),
        ((5120, 40, 40), (32, 1.8, 0.015)),
        ((6144, 80, 48), (64, 1.8, 0.015)),
        ((9216, 80, 72), (96, 2.0, 0.025)),
        ((12288, 96, 96), (128, 2.4, 0.03)),
        ((16384, 110, 128), (144, 2.8, 0.035)),
    ],
)
def test_the_scale_table_fills_in_what_nobody_asked_for(shape, scale):
    hidden, layers, heads = shape
    config = lumina.Config(
        use_moe=True,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        vocab_size=50304,
    )
    moe = resolve_spec(config).moe
    assert (moe.num_experts, moe.capacity_factor, moe.balance_weight) == scale
    assert moe.top_k == 2
    asked = config.replace(
        num_experts=8, capacity_factor=3.0, load_balancing_weight=0.0
    )
    moe = resolve_spec(asked).moe
    assert (moe.num_experts, moe.capacity_factor, moe.balance_weight) == (8, 3.0, 0.0)


@pytest.mark.covers("MOD-21")
def test_presets_take_their_numbers_from_the_table_by_their_experts():
    for name, scale in (("b7", (16, 1.5, 0.01)), ("b300", (144, 2.8, 0.035))):
        moe = resolve_spec(lumina.ConfigPresets.get(name)).moe
        assert (moe.num_experts, moe.capacity_factor, moe.balance_weight) == scale


def test_more_choices_than_the_default_experts_is_refused():
    config = lumina.Config(use_moe=True, moe_top_k=6, vocab_size=300)
    with pytest.raises(lumina.LuminaError) as caught:
        resolve_spec(config)
    assert caught.value.code == "E002" and "num_experts 4" in caught.value.message


def test_the_selection_bias_balances_without_a_loss(tiny_config):
    """A run whose router starts skewed: the bias evens the load, nothing else does."""
    mean = {}
    for rate in (0.0, 0.02):
        trainer = lumina.Trainer(
            tiny_config.replace(
                use_moe=True,
                num_experts=4,
                moe_top_k=1,
                moe_normalise_top_k=False,
                load_balancing_weight=0.0,
                router_z_loss_weight=0.0,
                moe_bias_update_rate=rate,
                init_std=0.08,
                steps=30,
                run_dir=f"{tiny_config.run.run_dir}-{rate}",
            )
        )
        seen = []
        trainer.on_step = lambda _, row: seen.append(max(row["moe.max_violation"]))  # noqa: B023
        trainer.train()
        mean[rate] = sum(seen[-8:]) / 8
    assert mean[0.02] < 0.6 * mean[0.0], mean
