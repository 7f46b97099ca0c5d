"""Recomputing activations: the same gradients, and the bytes that the plan counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lumina.assemble.checkpointing import recompute
from lumina.config import Config
from lumina.config.leaves import understood
from lumina.errors import LuminaError
from lumina.measure.live_bytes import LiveBytes
from lumina.model.build import build_network
from lumina.plan.checkpointing import runs_of
from lumina.plan.detail import choices_of
from lumina.plan.figures import layout_of
from lumina.plan.memory import estimate
from lumina.plan.plan import Plan
from machines import cpu, gpu, plan_for
from networks import packed_batch

SHAPE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_layers": 7,
    "num_heads": 4,
    "num_kv_heads": 2,
    "seq_length": 64,
    "intermediate_size": 192,
    "global_batch_size": 4,
    "loss_chunk_bytes": 2**19,
    "steps": 1,
}


def gradients(plan: Plan, live: LiveBytes | None = None) -> tuple[list[Tensor], int]:
    """(the loss and every gradient of one forward, bytes kept for backward)."""
    network = build_network(plan.spec, loss_chunk_bytes=plan.loss_chunk_bytes, seed=0)
    recompute(network, plan)
    meter = live or LiveBytes()
    for parameter in network.parameters():
        meter.add(parameter)
    meter.now = meter.peak = 0
    torch.manual_seed(1)
    batch = packed_batch([[40, 24]] * plan.micro_batch_size, 64)
    with meter:
        sums, aux = network(batch)
        kept = meter.now
        total = sums.loss_sum + sum(aux[k] for k in aux if k.endswith("loss"))
        total.backward()
    found = [sums.loss_sum, *(p.grad for p in network.parameters())]
    return [one.detach() for one in found if one is not None], kept


def planned(**options: Any) -> Plan:
    return plan_for(Config(**(SHAPE | {"device": "cpu"} | options)))


@pytest.mark.covers("MEM-03")
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.1},
        {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 32},
        pytest.param({"use_mod": True}, marks=pytest.mark.thorough),
    ],
    ids=["dropout", "experts", "depths"],
)
def test_segments_give_the_gradients_of_a_step_that_keeps_everything(
    options: dict[str, Any],
) -> None:
    plain, _ = gradients(planned(**options, gradient_checkpointing="none"))
    again, kept = gradients(planned(**options, gradient_checkpointing="sqrt"))
    _, full = gradients(planned(**options, gradient_checkpointing="full"))
    assert len(plain) == len(again)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    # Two inputs of segments and the one input of the last: full keeps seven.
    assert kept < 0.75 * full


def test_segments_hold_what_the_plan_counts() -> None:
    found = {}
    for mode in ("full", "sqrt"):
        meter, plan = LiveBytes(), planned(num_layers=16, gradient_checkpointing=mode)
        gradients(plan, meter)
        parts = estimate(plan.spec, layout_of(plan))
        names = ("activations", "logits", "working", "gradients")
        assert meter.peak <= sum(parts[name] for name in names) <= 1.35 * meter.peak
        found[mode] = parts["activations"]
    # 3 segments' inputs and 4 blocks' in place of 16.
    one = 4 * 64 * 64 * 4
    assert found["full"] - found["sqrt"] == (16 - 7) * one


@pytest.mark.covers("MEM-02: checkpoint_attention true / checkpoint_mlp false")
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.1},
        pytest.param(
            {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 32},
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["dropout", "experts"],
)
def test_one_branch_is_recomputed_and_the_other_one_kept(
    options: dict[str, Any],
) -> None:
    """The branch runs twice; gradients and the bytes of the plan hold."""
    assert understood("checkpoint_mlp", "false") == {}
    written = understood("checkpoint_attention", "true")
    assert written == {"gradient_checkpointing": "attention"}
    options = options | {"num_layers": 2, "batch_size": 4}
    plain, everything = gradients(planned(**options, gradient_checkpointing="none"))
    for kind in ("attention", "feedforward"):
        plan, meter = planned(**options, gradient_checkpointing=kind), LiveBytes()
        found, kept = gradients(plan, meter)
        for one, other in zip(plain, found, strict=True):
            torch.testing.assert_close(one, other)
        assert kept < everything
        parts = estimate(plan.spec, layout_of(plan))
        stays = parts["activations"] + parts["routed"]
        assert kept - _loss_gradients(plan) == pytest.approx(stays, rel=0.05)
        names = ("activations", "routed", "logits", "working", "gradients")
        assert meter.peak <= sum(parts[name] for name in names)


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.1},
        {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 32},
    ],
    ids=["dropout", "experts"],
)
def test_what_attention_gave_is_kept_beside_the_input(options: dict[str, Any]) -> None:
    """The same gradients; bytes as planned, one vector a token more than `full`.

    Attention runs once in a block, and once more where it is computed again.
    """
    options = options | {"num_layers": 2, "batch_size": 4}
    plain, _ = gradients(planned(**options, gradient_checkpointing="none"))
    with _Attentions() as again:
        _, least = gradients(planned(**options, gradient_checkpointing="full"))
    plan = planned(**options, gradient_checkpointing="except_attention")
    with _Attentions() as once:
        found, kept = gradients(plan)
    assert (again.forwards, once.forwards) == (4, 2)
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other)
    more = 2 * 4 * 64 * (64 * 4 + 4 * 4)
    assert kept - least == pytest.approx(more, rel=0.02)
    parts = estimate(plan.spec, layout_of(plan))
    full = estimate(plan.spec, replace(layout_of(plan), gradient_checkpointing="full"))
    assert parts["activations"] - full["activations"] == more


class _Attentions(TorchDispatchMode):
    """Counts the forward passes of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = func.__name__
        self.forwards += "attention" in name and "backward" not in name
        return func(*args, **(kwargs or {}))


def test_budgets_recompute_as_little_as_they_allow() -> None:
    """Each budget's decision holds its bytes, and one step less would not."""
    none = planned(gradient_checkpointing="none", batch_size=4)
    everything = none.memory["activations"]
    reference, _ = gradients(none)
    seen = set()
    for share in (0.9, 0.5, 0.25):
        most = max(2**20, int(share * everything))
        asked = {"gradient_checkpointing": "budget", "activation_budget": most}
        plan = planned(**asked, batch_size=4)
        meter = LiveBytes()
        found, kept = gradients(plan, meter)
        assert plan.memory["activations"] <= most
        assert kept - _loss_gradients(plan) <= 1.05 * most
        for one, other in zip(reference, found, strict=True):
            torch.testing.assert_close(one, other)
        parts = estimate(plan.spec, layout_of(plan))
        names = ("activations", "logits", "working", "gradients")
        assert meter.peak <= sum(parts[name] for name in names)
        seen.add(plan.block_checkpointing)
        assert Plan.from_dict(plan.to_dict()) == plan
    assert len(seen) == 3
    with pytest.raises(LuminaError, match=r"activation_budget is 1\.0 MiB") as refused:
        planned(
            gradient_checkpointing="budget", activation_budget=2**20, seq_length=4096
        )
    assert refused.value.code == "E002"


def _loss_gradients(plan: Plan) -> int:
    """Bytes of gradients that the loss leaves for the backward pass."""
    tokens = plan.micro_batch_size * plan.spec.seq_length
    return 4 * plan.spec.hidden_size * (tokens + plan.spec.padded_vocab_size)


def test_a_budget_follows_the_memory_of_the_machine() -> None:
    """More memory, less recomputation; the first blocks recompute the most."""
    shape = {"num_layers": 16, "hidden_size": 1024, "seq_length": 4096, "batch_size": 8}
    shape |= {"vocab_size": 8192, "num_heads": 8, "intermediate_size": 4096}
    shape |= {"global_batch_size": 8}
    taken = []
    for gib in (12, 16, 24, 80):
        config = Config(**(SHAPE | shape), gradient_checkpointing="budget")
        plan = plan_for(config, gpu(gib=gib))
        assert plan.memory["bound"] <= 0.9 * gib * 2**30
        order = ("full", "selective", "none")
        places = [order.index(kind) for kind in plan.block_checkpointing]
        assert places == sorted(places)
        taken.append(sum(places))
        assert (
            runs_of(plan.block_checkpointing) in plan.reasons["gradient_checkpointing"]
        )
    assert taken == sorted(taken) and len(set(taken)) == 4


@pytest.mark.covers(
    "MEM-04: >85% memory full", "MEM-04: >70% selective", "MEM-04: otherwise off"
)
def test_adaptive_checkpointing_follows_the_share_of_memory() -> None:
    shape = SHAPE | {"batch_size": 4, "device": "cpu"}
    bound = plan_for(Config(**shape, gradient_checkpointing="none")).memory["bound"]
    config = Config(**shape, gradient_checkpointing="adaptive")
    for share, kind in ((0.69, "none"), (0.71, "selective"), (0.84, "selective"),
                        (0.86, "full")):  # fmt: skip
        plan = plan_for(config, cpu(memory_bytes=int(bound / share)))
        assert plan.gradient_checkpointing == kind
        assert f"{share:.0%}" in plan.reasons["gradient_checkpointing"]


def test_the_list_of_choices_has_the_one_that_was_taken() -> None:
    for kind in ("sqrt", "budget", "selective"):
        choices = choices_of(planned(gradient_checkpointing=kind), 2**36)
        assert [one.gradient_checkpointing for one in choices if one.chosen] == [kind]


def test_what_does_not_suit_segments_is_refused_by_name() -> None:
    for options in ({"use_mor": True, "num_layers": 3}, {"use_hrm": True}):
        for kind in ("sqrt", "budget"):
            with pytest.raises(LuminaError, match=f"gradient_checkpointing {kind}"):
                planned(**options, gradient_checkpointing=kind)
