"""Experts added to and taken out of a State."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch

import pytest
import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.state.expert_surgery import add_expert, prune_expert
from programs import tiny_plan

ROUTED = "backbone.blocks.{}.feedforward.{}"


@pytest.fixture
def state():
    """A State of routed layers whose every moment and load tells its expert."""
    plan = tiny_plan(True, ema_decay=0.9)
    moe = replace(plan.spec.moe, bias_update_rate=0.01)
    program = assemble(plan.replace(spec=replace(plan.spec, moe=moe)))
    state = capture(program, Progress(), everything=True)
    g = torch.Generator().manual_seed(3)
    for slot in state.optimizer.values():
        for tensor in slot.values():
            tensor.uniform_(0, 1, generator=g)
    for layer, busiest in ((0, 2), (1, 0)):
        load = torch.full((4,), 0.2)
        load[busiest], load[3] = 0.5, 0.1
        state.tensors[ROUTED.format(layer, "load")] = load
    return state


@pytest.mark.covers(
    "MOD-24: new expert initialised from existing ones",
    "MOD-24: optimizer state carried",
)
def test_a_new_expert_is_the_busiest_ones_twin(state):
    grown = add_expert(state, noise=0.01)
    assert (
        grown.spec["moe"]["num_experts"]
        == 5
        == grown.plan["spec"]["moe"]["num_experts"]
    )
    assert state.spec["moe"]["num_experts"] == 4
    for layer, busiest in ((0, 2), (1, 0)):
        for leaf in ("router.weight", "gate", "up", "down"):
            name = ROUTED.format(layer, leaf)
            old, new = state.tensors[name], grown.tensors[name]
            assert torch.equal(new[:4], old)
            apart = (new[4] - old[busiest]).std() / old.std()
            assert 0.005 < apart < 0.02, leaf
            for slot in ("exp_avg", "exp_avg_sq", "ema"):
                moments = grown.optimizer[slot][name]
                assert torch.equal(moments[:4], state.optimizer[slot][name])
                assert torch.equal(moments[4], moments[busiest])
        load = grown.tensors[ROUTED.format(layer, "load")]
        assert load[4] == load[busiest] == 0.25 and load.sum() == pytest.approx(1)
    untouched = "backbone.blocks.0.attention.q.weight"
    assert grown.tensors[untouched] is state.tensors[untouched]
    again = add_expert(state, noise=0.01)
    name = ROUTED.format(0, "gate")
    assert torch.equal(again.tensors[name], grown.tensors[name])


def test_a_mean_expert(state):
    grown = add_expert(state, how="mean", noise=0.0)
    name = ROUTED.format(1, "down")
    torch.testing.assert_close(grown.tensors[name][4], state.tensors[name].mean(0))
    moments = state.optimizer["exp_avg_sq"][name]
    torch.testing.assert_close(grown.optimizer["exp_avg_sq"][name][4], moments.mean(0))
    load = grown.tensors[ROUTED.format(1, "load")]
    assert load[4] == pytest.approx(0.2) and load.sum() == pytest.approx(1)


@pytest.mark.covers("MOD-24: optimizer state carried")
def test_pruning_keeps_the_others_and_reroutes(state):
    """The pruned model is the old one in which nobody may choose that expert."""
    pruned = prune_expert(state, {0: 1})
    kept = {0: [0, 2, 3], 1: [0, 1, 2]}  # block 1 loses its least loaded one
    for layer, experts in kept.items():
        for leaf in ("router.weight", "gate", "up", "down", "selection_bias"):
            name = ROUTED.format(layer, leaf)
            assert torch.equal(pruned.tensors[name], state.tensors[name][experts])
            if leaf != "selection_bias":
                found = pruned.optimizer["exp_avg"][name]
                assert torch.equal(found, state.optimizer["exp_avg"][name][experts])
        assert pruned.tensors[ROUTED.format(layer, "load")].sum() == pytest.approx(1)

    plan = tiny_plan(True, ema_decay=0.9)
    barred = {k: v.clone() for k, v in state.tensors.items()}
    for layer, expert in ((0, 1), (1, 3)):
        # Never chosen; its share of the softmax cancels in renormalising.
        barred[ROUTED.format(layer, "selection_bias")][expert] = -10
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    logits = []
    for values, source in (
        (pruned.spec, pruned),
        (state.spec, replace_tensors(state, barred)),
    ):
        spec = ModelSpec.from_dict(values)
        program = assemble(plan.replace(spec=spec), StateSource(source), meta=source)
        with torch.no_grad():
            logits.append(program.network.eval().logits(ids))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("top_k", "fewest"), [(1, 2), (2, 2), (3, 3), (4, 4)])
def test_at_least_two_experts_stay_and_as_many_as_a_token_takes(state, top_k, fewest):
    state = replace(
        state, spec=state.spec | {"moe": state.spec["moe"] | {"top_k": top_k}}
    )
    while state.spec["moe"]["num_experts"] > fewest:
        state = prune_expert(state)
    with pytest.raises(LuminaError, match=f"{fewest} experts are the fewest") as caught:
        prune_expert(state)
    assert caught.value.code == "E002"


def replace_tensors(state, tensors):
    return replace(state, tensors=tensors)


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda s: prune_expert(s, {0: 4}), "E005"),
        (lambda s: prune_expert(s, {2: 0}), "E005"),
        (lambda s: add_expert(s, how="magic"), "E005"),
        (lambda s: prune_expert(prune_expert(prune_expert(s))), "E002"),
        (lambda s: add_expert(replace(s, spec={"moe": None})), "E002"),
    ],
)
def test_what_cannot_be_done_is_refused(state, edit, code):
    with pytest.raises(LuminaError) as caught:
        edit(state)
    assert caught.value.code == code


def test_all_but_the_routed_experts_freeze_whatever_else_a_model_has():
    import lumina
    from lumina.model.declared import tensor_info
    from lumina.plan.shape import resolve_spec
    from lumina.state.experts import base_patterns

    config = lumina.Config(
        use_moe=True,
        use_mod=True,
        moe_shared_experts=1,
        moe_first_dense=1,
        qk_norm="rms",
        hidden_size=32,
        intermediate_size=64,
        num_layers=12,
        vocab_size=128,
        seq_length=32,
    )
    spec = resolve_spec(config)
    patterns = base_patterns(spec)
    info = tensor_info(spec)
    names = [name for name, one in info.items() if one.role != "buffer"]
    free = [n for n in names if not any(fnmatch(n, p) for p in patterns)]
    assert free == [
        ROUTED.format(layer, leaf)
        for layer in range(1, 12)
        for leaf in ("gate", "up", "down", "router.weight")
    ]
    assert len(patterns) < 25
    assert all(any(fnmatch(name, p) for name in names) for p in patterns)


def logits_of(state, plan, ids):
    spec = ModelSpec.from_dict(state.spec)
    program = assemble(plan.replace(spec=spec), StateSource(state), meta=state)
    with torch.no_grad():
        return program.network.eval().logits(ids)


@pytest.mark.covers("ORC-20: add experts")
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_copy_of_an_expert_leaves_what_the_model_computes(state, top_k):
    """Where a token takes one expert, whichever of two alike ones it takes is the same.

    Net2Net (Chen et al., 2016, arXiv:1511.05641) and sparse upcycling (Komatsuzaki et
    al., 2023, arXiv:2212.05055) begin with a function that is not changed. A token of
    two experts may take both copies, in place of the second; and noise is a change.
    """
    moe = state.spec["moe"] | {"top_k": top_k}
    state = replace(state, spec=state.spec | {"moe": moe})
    plan = tiny_plan(True, ema_decay=0.9)
    ids = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    before = logits_of(state, plan, ids)
    alike = logits_of(add_expert(state, noise=0.0), plan, ids)
    noisy = logits_of(add_expert(state, noise=0.5), plan, ids)
    if top_k == 1:
        torch.testing.assert_close(alike, before, rtol=1e-5, atol=1e-5)
    else:
        assert not torch.allclose(alike, before, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(noisy, before, rtol=1e-3, atol=1e-3)
