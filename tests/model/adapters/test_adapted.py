"""A model with adapters is the model with changed matrices, whatever its kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.errors import LuminaError
from lumina.infer.graph import EveryExpert
from lumina.model.adapters.attach import pieces, set_weights
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.build import build_network
from lumina.model.declared import declared, fused_pieces
from lumina.model.freezing import frozen_parameters
from lumina.model.kinds.adapters import placed
from lumina.model.spec import HrmSpec, ModelSpec, ModSpec, MoeSpec, MorSpec, TaskSpec
from networks import packed_batch, tiny_spec

EXPERTS = MoeSpec(4, 2, 24, (1,), shared_experts=1)
ARCHITECTURES = {
    "plain": {"attention_bias": True},
    "experts": {"moe": EXPERTS},
    "dropped": {"moe": replace(EXPERTS, dispatch="capacity", capacity_factor=1.0)},
    "latent": {
        "mla_kv_rank": 16, "mla_q_rank": 8, "mla_rope_dim": 4, "mla_value_dim": 8,
    },
    "depths": {"mod": ModSpec(layers=(1,))},
    "recursions": {
        "num_layers": 3,
        "mor": MorSpec(recursions=2, kv_sharing=True, mode="static"),
    },
    "reasoner": {
        "hrm": HrmSpec(
            mode="language_model", h_layers=1, l_layers=1, halt_max_steps=2,
            halt_exploration=0.0,
        ),
    },
}  # fmt: skip


def adapted(changes: dict, **settings) -> tuple[ModelSpec, ModelSpec]:
    """A shape without adapters, and with one whose settings are given."""
    spec = tiny_spec(**changes)
    given = {"rank": 4, "alpha": 6.0, "targets": ("full", "lm_head")} | settings
    return spec, replace(spec, adapters=(AdapterSpec(**given),))


def fill(network, seed=1) -> None:
    """Random values for every tensor of the adapters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if ".adapters." in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def changed_base(spec: ModelSpec, network) -> torch.nn.Module:
    """A network without adapters whose matrices are what the adapters make of them."""
    base = build_network(spec)
    with torch.no_grad():
        for _, piece, layer in pieces(network):
            matrix = base.get_parameter(f"{piece.site.path}.{piece.site.matrix}")
            piece.rows(matrix).add_(piece.delta(layer))
    return base


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_change_what_their_dense_matrices_would(architecture):
    """The loss, and the gradient of A and B, are those of W + scale * B A."""
    spec, with_adapters = adapted(ARCHITECTURES[architecture])
    network, plain = build_network(with_adapters), build_network(spec)
    batch = packed_batch([[9, 8], [24], [24]], 24)
    for one in (network, plain):
        one.train()
    torch.manual_seed(3)
    before = plain(batch)[0].loss_sum
    torch.manual_seed(3)
    assert torch.equal(network(batch)[0].loss_sum, before)  # B begins at zero

    fill(network)
    dense = changed_base(spec, network).train()
    torch.manual_seed(3)
    loss = network(batch)[0].loss_sum
    torch.manual_seed(3)
    expected = dense(batch)[0].loss_sum
    assert abs(loss - before) > 0.01
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=2e-4)

    loss.backward()
    expected.backward()
    for _, piece, _ in pieces(network):
        site = piece.site
        gradient = dense.get_parameter(f"{site.path}.{site.matrix}").grad
        of_delta = piece.scale * piece.rows(gradient)
        for found, right in (
            (piece.a.grad, piece.b.mT @ of_delta),
            (piece.b.grad, of_delta @ piece.a.mT),
        ):
            assert (found - right).norm() < 1e-4 * right.norm()


def test_only_the_adapters_tensors_train_and_those_that_are_named_besides():
    """The base is frozen; a pattern of `also` lets a part of it train."""
    _, spec = adapted({}, also=("objective.head.*",))
    frozen = frozen_parameters(spec, ())
    trains = set(declared(spec)) - frozen
    assert trains == {name for name in declared(spec) if ".adapters." in name} | {
        "objective.head.weight"
    }
    with pytest.raises(LuminaError, match=r"nothing\.here"):
        frozen_parameters(
            replace(spec, adapters=(AdapterSpec(also=("nothing.here",)),)), ()
        )


@pytest.mark.covers("MOD-39: minimal q,v; balanced q,k,v,o; full q,k,v,o,gate,up,down")
def test_a_preset_stands_on_the_pieces_that_it_names():
    """minimal is query and value, balanced the attention, full the MLP too."""
    pieces_of = {}
    for preset in ("minimal", "balanced", "full", "all-linear"):
        _, spec = adapted({"moe": EXPERTS}, targets=(preset,))
        pieces_of[preset] = {site.piece for _, site in placed(spec, declared(spec))}
    assert pieces_of["minimal"] == {"q_proj", "v_proj"}
    assert pieces_of["balanced"] == {"q_proj", "k_proj", "v_proj", "o_proj"}
    mlp = {"gate_proj", "up_proj", "down_proj"}
    assert pieces_of["full"] == pieces_of["balanced"] | mlp == pieces_of["all-linear"]


def test_a_pattern_names_matrices_by_their_names_in_files():
    """A glob chooses layers; one that fits nothing is refused with what there is."""
    _, spec = adapted({}, targets=("blocks.1.attention.q", "*.0.feedforward.*"))
    found = {site.short for _, site in placed(spec, declared(spec))}
    feedforward = "backbone.blocks.0.feedforward"
    assert found == {
        "backbone.blocks.1.attention.q",
        *(f"{feedforward}.{piece}" for piece in ("gate", "up", "down")),
    }
    # Beside an embedding there is none: merged, it would part what a model has tied.
    for name in ("kv_b_proj", "embed_tokens"):
        _, spec = adapted({}, targets=("q_proj", name))
        with pytest.raises(LuminaError, match=name) as error:
            declared(spec)
        assert error.value.code == "E005" and "q_proj" in error.value.hint


def test_several_adapters_add_up_by_their_weights():
    """Two adapters on the same and on other matrices; one of weight 0 does nothing."""
    spec = tiny_spec()
    two = (
        AdapterSpec("first", rank=4, targets=("q_proj", "down_proj")),
        AdapterSpec("second", rank=2, targets=("q_proj",), weight=0.5),
    )
    network = build_network(replace(spec, adapters=two))
    fill(network)
    ids = torch.randint(0, 100, (2, 24))
    with torch.no_grad():
        for weights in ({"first": 1.0, "second": 0.5}, {"second": -2.0}, {}):
            base = build_network(spec)
            for name, piece, layer in pieces(network):
                matrix = base.get_parameter(f"{piece.site.path}.weight")
                factor = weights.get(name, 0.0)
                piece.rows(matrix).add_(piece.delta(layer), alpha=factor)
            if len(weights) != 2:  # those of the settings to begin with
                set_weights(network, weights)
            expected = base(ids).logits
            assert (network(ids).logits - expected).norm() < 1e-5 * expected.norm()
    with pytest.raises(LuminaError, match="third"):
        set_weights(network, {"third": 1.0})


def test_the_base_keeps_its_names_and_its_first_values():
    """An adapter adds tensors; those of the base are as they are without it."""
    spec, with_adapters = adapted({"moe": EXPERTS})
    base, network = build_network(spec), build_network(with_adapters)
    own = dict(network.named_parameters())
    for name, value in base.named_parameters():
        assert torch.equal(own.pop(name), value)
    assert all(".adapters.default." in name for name in own)
    assert fused_pieces(spec) == fused_pieces(with_adapters)
    assert ModelSpec.from_dict(with_adapters.to_dict()) == with_adapters


def test_dropout_acts_on_the_adapters_input_in_training_only():
    """With it two training passes differ, two evaluations do not."""
    _, spec = adapted({}, dropout=0.5, targets=("balanced",))
    network = build_network(spec)
    fill(network)
    ids = torch.randint(0, 100, (2, 24))
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(ids).logits, network(ids).logits)
        network.eval()
        same = network(ids).logits
        assert torch.equal(same, network(ids).logits)
        _, plain = adapted({}, targets=("balanced",))
        without = build_network(plain).eval()
        fill(without)
        assert torch.equal(same, without(ids).logits)


def test_the_graph_of_a_model_computes_the_adapters_of_its_experts():
    """The layer that computes every expert gives what the routed layer gives."""
    _, spec = adapted({"moe": EXPERTS})
    network = build_network(spec).eval()
    fill(network)
    layer = network.backbone.blocks[1].feedforward
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(EveryExpert(layer)(x)[0], layer(x)[0])


def test_the_heads_of_several_tasks_are_adapted_apart():
    """Each task's head has an adapter of its own, which changes its scores only."""
    spec, with_adapters = adapted(
        {"tasks": TaskSpec(("one", "two"))}, targets=("objective.heads.1",)
    )
    network, base = build_network(with_adapters), build_network(spec)
    fill(network)
    ids = torch.randint(0, 100, (2, 24))
    with torch.no_grad():
        scores = [[n(ids, task_id=t).logits for t in (0, 1)] for n in (network, base)]
    assert torch.equal(scores[0][0], scores[1][0])
    assert not torch.allclose(scores[0][1], scores[1][1])
