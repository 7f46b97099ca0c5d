"""The routed layer: what its router learns from, counts and refuses to mix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from lumina.model.moe import (
    MoeFeedForward,
    apply_router_updates,
    collect_aux,
    update_load,
    update_selection_bias,
)
from lumina.model.spec import ModelSpec, MoeSpec


def make_layer(seed=0, *, std=0.3, **moe):
    """A small routed layer with random weights and a load far from even."""
    values = {"num_experts": 4, "top_k": 2, "intermediate_size": 24, "layers": (0,)}
    spec = ModelSpec(
        vocab_size=64,
        padded_vocab_size=64,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=24,
        seq_length=32,
        moe=MoeSpec(**(values | moe)),
    )
    layer = MoeFeedForward(spec, 0)
    g = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data.normal_(0, std, generator=g)
    layer.load.copy_(torch.rand(layer.load.shape, generator=g).softmax(0))
    return layer


def tokens(rows=3, length=8, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, 16, generator=g)


def test_identical_experts_are_one_dense_swiglu():
    layer = make_layer()
    layer.gate_up.data[:] = layer.gate_up.data[:1].clone()
    layer.down.data[:] = layer.down.data[:1].clone()
    x = tokens()
    gate, up = F.linear(x, layer.gate_up[0]).chunk(2, dim=-1)
    dense = F.linear(F.silu(gate) * up, layer.down[0])
    torch.testing.assert_close(layer(x)[0], dense, rtol=1e-5, atol=1e-6)


def test_unnormalised_scores_shrink_the_output():
    layer = make_layer(normalise_top_k=False)
    twin = make_layer(normalise_top_k=True)
    x = tokens()
    routing = layer.route(x.reshape(-1, 16))
    expected = twin(x)[0].reshape(-1, 16) * routing.scores_tk.sum(-1, keepdim=True)
    torch.testing.assert_close(
        layer(x)[0].reshape(-1, 16), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_router_learns_from_the_output_alone(dispatch):
    layer = make_layer(dispatch=dispatch)
    (layer(tokens())[0] * tokens(seed=5)).sum().backward()
    assert (layer.router.weight.grad.norm(dim=1) > 1e-4).all()


def test_balance_loss_pushes_tokens_off_the_busiest_expert():
    layer = make_layer()
    layer.load.copy_(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    x = tokens()
    before = layer.route(x.reshape(-1, 16)).probs_te[:, 0].mean()
    layer(x)[1]["moe.balance_loss"].backward()
    assert layer.router.weight.grad.norm() > 1e-3
    layer.router.weight.data -= 0.05 * layer.router.weight.grad
    assert layer.route(x.reshape(-1, 16)).probs_te[:, 0].mean() < before


@pytest.mark.covers("MOD-17: auxiliary load-balancing loss")
def test_balance_and_z_loss_are_what_the_papers_say():
    layer, x = make_layer(), tokens()
    logits = F.linear(x.reshape(-1, 16), layer.router.weight)
    aux = layer(x)[1]
    balance = 4 * (logits.softmax(-1) * layer.load).sum()
    torch.testing.assert_close(aux["moe.balance_loss"], balance)
    torch.testing.assert_close(aux["moe.z_loss"], logits.logsumexp(-1).square().sum())


def test_sums_and_gradients_do_not_depend_on_the_split():
    layer = make_layer()
    x = tokens(rows=4)

    def sums(batches):
        layer.zero_grad()
        aux = [layer(b)[1] for b in batches]
        total = {k: sum(a[k] for a in aux) for k in aux[0]}
        (total["moe.balance_loss"] + total["moe.z_loss"]).backward()
        return {k: v.detach() for k, v in total.items()}, layer.router.weight.grad

    whole, split = sums([x]), sums([x[:1], x[1:]])
    torch.testing.assert_close(whole, split, rtol=1e-5, atol=1e-5)


def test_padding_is_neither_counted_nor_lost_nor_placed():
    layer = make_layer(dispatch="capacity", capacity_factor=1.0)
    x = tokens(rows=2)
    valid = torch.ones(2, 8, dtype=torch.bool)
    valid[:, 5:] = False
    y, aux = layer(x, valid)
    layer.eval()
    _, alone = layer(x[:, :5])
    assert aux["moe.counts"].sum() == 2 * 5 * 2
    for name in ("moe.counts", "moe.balance_loss", "moe.z_loss"):
        torch.testing.assert_close(aux[name], alone[name])
    assert y[~valid].abs().max() == 0, "padding went through no expert"


def test_dropped_follows_capacity():
    dropped = {}
    for factor in (0.25, 0.5, 1.0, 4.0):
        layer = make_layer(dispatch="capacity", capacity_factor=factor)
        dropped[factor] = layer(tokens(rows=8))[1]["moe.dropped"].item()
        assert layer.eval()(tokens(rows=8))[1]["moe.dropped"] == 0
    # 128 assignments; a quarter of an even share leaves 4 * 8 places.
    assert dropped[0.25] == 128 - 32
    assert dropped[0.25] > dropped[0.5] > dropped[1.0] > 0 == dropped[4.0]


def test_roomy_capacity_equals_dropless_and_evaluation_ignores_capacity():
    x = tokens()
    dropless, tight = make_layer(), make_layer(dispatch="capacity", capacity_factor=0.3)
    roomy = make_layer(dispatch="capacity", capacity_factor=4.0)
    expected = dropless(x)[0]
    torch.testing.assert_close(roomy(x)[0], expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(tight(x)[0], expected)
    torch.testing.assert_close(tight.eval()(x)[0], expected)


def test_other_sequences_do_not_change_a_result():
    layer, x = make_layer(), tokens(rows=4)
    together = layer(x)[0]
    for row in range(4):
        torch.testing.assert_close(layer(x[row : row + 1])[0][0], together[row])


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_later_tokens_change_nothing_before_them(dispatch):
    layer = make_layer(dispatch=dispatch, capacity_factor=0.5)
    x = tokens(rows=2, length=12)
    before = layer(x)[0]
    for t in (1, 6, 11):
        changed = x.clone()
        changed[:, t:] = torch.randn(2, 12 - t, 16)
        torch.testing.assert_close(layer(changed)[0][:, :t], before[:, :t])


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_recomputation_counts_once_and_changes_no_gradient(dispatch):
    def gradients(recompute):
        layer = make_layer(dispatch=dispatch)
        x = tokens().requires_grad_()
        if recompute:
            y, aux = checkpoint(layer, x, None, use_reentrant=False)
        else:
            y, aux = layer(x)
        (y.square().sum() + aux["moe.balance_loss"] + aux["moe.z_loss"]).backward()
        return [x.grad, *(p.grad for p in layer.parameters())], aux, layer.load

    plain, again = gradients(False), gradients(True)
    for a, b in zip(plain[0], again[0], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain[1]["moe.counts"], again[1]["moe.counts"])
    assert torch.equal(plain[2], again[2]), "forward changes no buffer"


def test_bias_chooses_but_does_not_weigh():
    layer = make_layer(bias_update_rate=0.1, top_k=1, normalise_top_k=False)
    x = tokens().reshape(-1, 16)
    layer.selection_bias[2] = 10.0
    routing = layer.route(x)
    assert (routing.ids_tk == 2).all()
    torch.testing.assert_close(routing.scores_tk[:, 0], routing.probs_te[:, 2])


def test_bias_update_rule():
    bias = torch.tensor([0.0, 1.0, 0.0, 0.0])
    update_selection_bias(bias, torch.tensor([10.0, 0.0, 1.0, 1.0]), 0.1)
    # Signs -1, +1, +1, +1, less their mean 0.5.
    torch.testing.assert_close(bias, torch.tensor([-0.15, 1.05, 0.05, 0.05]))


def test_load_is_the_share_of_assignments_and_survives_an_empty_step():
    load = torch.full((4,), 0.25)
    update_load(load, torch.tensor([6.0, 2.0, 0.0, 0.0]))
    assert load.tolist() == [0.75, 0.25, 0.0, 0.0]
    update_load(load, torch.zeros(4))
    assert load.tolist() == [0.75, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("how", ["loss", "bias"])
def test_balancing_spreads_a_collapsed_router(how):
    """Trained with either means, the busiest expert's share falls well down."""
    torch.manual_seed(0)
    rate = 0.02 if how == "bias" else 0.0
    layer = make_layer(top_k=1, num_experts=4, bias_update_rate=rate)
    layer.reset_buffers()
    with torch.no_grad():
        layer.router.weight[0] += 0.6
    shift = torch.full((16,), 0.4)
    optimizer = torch.optim.SGD([layer.router.weight], lr=0.3)
    shares = []
    for _ in range(120):
        x = torch.randn(4, 32, 16) + shift
        aux = layer(x)[1]
        shares.append((aux["moe.counts"].max() / aux["moe.counts"].sum()).item())
        if how == "loss":
            optimizer.zero_grad()
            (aux["moe.balance_loss"] / 128).backward()
            optimizer.step()
        apply_router_updates(layer, aux["moe.counts"][None])
    assert sum(shares[:5]) / 5 > 0.6
    assert sum(shares[-20:]) / 20 < 0.45


def test_router_updates_reach_every_layer_in_block_order():
    first, second = make_layer(bias_update_rate=0.5), make_layer()
    second.layer_index = 1
    network = torch.nn.Sequential(second, torch.nn.Sequential(first))
    counts = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 3.0]])
    apply_router_updates(network, counts)
    assert first.load.tolist() == [1, 0, 0, 0] and second.load.tolist() == [0, 0, 0, 1]
    assert first.selection_bias[0] < 0 < first.selection_bias[1]
    with pytest.raises(ValueError, match="2 routed layers"):
        apply_router_updates(network, counts[:1])


def test_collected_aux_adds_losses_and_stacks_counts():
    layers = [make_layer(seed) for seed in (0, 1)]
    parts = [layer(tokens())[1] for layer in layers]
    aux = collect_aux(parts)
    assert aux["moe.counts"].shape == (2, 4) and aux["moe.dropped"].shape == (2,)
    expected = parts[0]["moe.z_loss"] + parts[1]["moe.z_loss"]
    torch.testing.assert_close(aux["moe.z_loss"], expected)
    assert collect_aux([]) == {}


def test_router_decides_in_float32_whatever_the_compute_type():
    layer = make_layer()
    x = tokens().bfloat16()
    exact = layer.route(x.float().reshape(-1, 16))
    y, aux = layer(x)
    assert y.dtype == torch.bfloat16 and aux["moe.z_loss"].dtype == torch.float32
    assert torch.equal(layer.route(x.reshape(-1, 16)).logits_te, exact.logits_te)
    assert torch.equal(layer.route(x.reshape(-1, 16)).ids_tk, exact.ids_tk)


def test_buffers_are_saved_only_where_they_mean_something():
    assert "load" in make_layer().state_dict()
    assert "selection_bias" not in make_layer().state_dict()
    assert "selection_bias" in make_layer(bias_update_rate=0.1).state_dict()
