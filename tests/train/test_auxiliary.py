"""Every further loss is minimised with its weight: against a list written out here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.config import Config
from lumina.model.kinds.table import loss_terms
from lumina.model.spec import HrmSpec, ModSpec, MoeSpec, MorSpec
from lumina.plan.shape import resolve_spec
from lumina.train.step import SCALARS, train_step
from programs import conversations, stream_of, tiny_plan

# Weights far above the usual ones, and all different: each shows in the gradient.
MOE = MoeSpec(4, 2, 16, layers=(0, 2), balance_weight=0.7, z_loss_weight=0.3)
MOD = ModSpec(layers=(1, 2), ladder=(0.5,), predictor_weight=0.9)
BY_TOKEN = MorSpec(3, routing="token_choice", balance_weight=0.6, z_loss_weight=0.2)
BY_PASS = MorSpec(4, router_loss_weight=0.8)
HRM = HrmSpec(
    mode="language_model",
    h_layers=1,
    l_layers=2,
    halt_max_steps=3,
    halt_exploration=0.0,
)

EXPERTS = {"moe.balance_loss": (0.7, 2), "moe.z_loss": (0.3, 2)}
DEPTH = {"mod.predictor_loss": (0.9, 2)}
HALTING = {"act.halt_loss": (0.5, 1), "act.continue_loss": (0.5, 1)}
ARCHITECTURES = {
    "dense": ({}, {}),
    "experts": ({"moe": MOE}, EXPERTS),
    "depth": ({"mod": MOD}, DEPTH),
    "depth by position": ({"mod": replace(MOD, routing="fixed")}, {}),
    "experts and depth": ({"moe": MOE, "mod": MOD}, EXPERTS | DEPTH),
    "recursion by token": (
        {"mor": BY_TOKEN},
        {"mor.balance_loss": (0.6, 1), "mor.z_loss": (0.2, 1)},
    ),
    "recursion": ({"mor": BY_PASS}, {"mor.router_loss": (0.8, 3)}),
    "recursion and experts": (
        {"mor": BY_PASS, "moe": replace(MOE, layers=(1, 2))},
        EXPERTS | {"mor.router_loss": (0.8, 3)},
    ),
    "static recursion": ({"mor": replace(BY_PASS, mode="static")}, {}),
    "reasoner": ({"hrm": HRM, "num_kv_heads": 4, "num_layers": 3}, HALTING),
    "tiny reasoner": (
        {
            "hrm": replace(HRM, variant="trm", h_layers=0),
            "num_kv_heads": 4,
            "num_layers": 2,
        },
        {"act.halt_loss": (0.5, 1)},
    ),
}
"""Changes of a shape, and what it minimises beside its cross entropy: key in `aux` ->
weight, and how many layers (or passes) its sum runs over."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


def program_of(changes):
    shape = {"num_layers": 4, "init_std": 0.3} | changes
    spec = replace(tiny_plan().spec, **shape)
    program = assemble(tiny_plan().replace(spec=spec))
    for name, buffer in program.network.named_buffers():
        if name.endswith("load"):  # an even one makes the balance losses flat
            shares = torch.linspace(-1, 1, buffer.numel()).softmax(0)
            buffer.copy_(shares.view_as(buffer))
    return program


def gradients(program, loss):
    parameters = dict(program.network.named_parameters())
    found = torch.autograd.grad(
        loss, parameters.values(), retain_graph=True, allow_unused=True
    )
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(parameters.items(), found, strict=True)
    }


@pytest.mark.covers(
    "MOD-17: auxiliary load-balancing loss", "MOD-17: load_balancing_weight"
)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_minimises_the_terms_that_are_written_here(stream, name):
    changes, weights = ARCHITECTURES[name]
    program = program_of(changes)
    batches = stream.step(stream.start, micro_batch_size=8)
    assert batches.loss_tokens < batches.tokens
    held = (None,) if program.network.recurrent else ()
    losses, aux = program.model(batches.micro_batches[0], *held)
    main = gradients(program, losses.loss_sum / batches.loss_tokens)
    terms, values = {}, {}
    for key, (weight, layers) in weights.items():
        # Halting is taught where the answer is; routing everywhere.
        taught = key.startswith("act.")
        tokens = batches.loss_tokens if taught else batches.tokens
        mean = aux[key] / (tokens * layers)
        terms[key] = gradients(program, weight * mean)
        values[key] = mean.item()

    metrics = train_step(program, batches, 0).tolist()
    share = 1 - program.plan.beta1
    found = {s.name: s.state["exp_avg"] / share for s in program.optimizer.slots}
    for parameter, gradient in found.items():
        wanted = sum((term[parameter] for term in terms.values()), main[parameter])
        scale = max(wanted.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-3, atol=1e-4 * scale, msg=parameter
        )
    # The comparison would notice the absence of any term.
    for key, term in terms.items():
        parts = [term[n].norm() / (found[n].norm() + 1e-12) for n in found]
        assert max(parts) > 0.02, key
    # What is logged is the mean of a term over tokens and layers, without its weight.
    keys = [term.key for term in loss_terms(program.plan.spec)]
    shown = dict(zip(keys, metrics[len(SCALARS) :], strict=False))
    assert shown == pytest.approx(values, rel=1e-4)


@pytest.mark.covers("MOD-17: 0.005-0.035 by scale")
def test_the_weights_of_models_that_ask_for_none():
    def weights(**leaves):
        spec = resolve_spec(Config(vocab_size=300, **leaves))
        return {t.key: (t.weight, t.layers) for t in loss_terms(spec)}

    small = {"hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "num_layers": 4}
    for experts, balance in ((4, 0.005), (8, 0.008), (16, 0.01), (64, 0.015)):
        found = weights(**small, use_moe=True, num_experts=experts)
        assert found == {"moe.balance_loss": (balance, 4), "moe.z_loss": (0.001, 4)}
    predictor = {"mod.predictor_loss": (0.01, 2)}
    assert weights(**small, use_mod=True) == predictor
    both = weights(**small, use_mod=True, use_moe=True, num_experts=4)
    assert both["mod.predictor_loss"][0] == 0.01 and len(both) == 3
    recursion = {"mor.router_loss": (0.001, 1)}
    assert weights(**small, use_mor=True) == recursion


def test_a_puzzle_step_minimises_half_of_both_halting_losses():
    hrm = HrmSpec(mode="puzzle", h_layers=1, l_layers=1)
    spec = replace(tiny_plan().spec, num_layers=2, hrm=hrm)
    (term,) = loss_terms(spec)
    assert (term.key, term.weight, term.layers) == ("act.halting_loss", 0.5, 1)
    # A mean over the puzzles that have a label, not over all rows.
    assert term.per_token(tokens=8, loss_tokens=5) == 1 / 5
