"""What every optimizer does alike: clip, skip, decay, masters, memory, resume."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.declared import declared
from lumina.optim.declared import chosen_optimizer
from lumina.optim.groups import optimizer_of
from lumina.plan.optimizers import bytes_per_parameter
from lumina.state.expert_surgery import add_expert, prune_expert
from machines import plan_for
from optimizer_steps import (
    MATRICES,
    everything,
    gradients,
    optimizer,
    slots_of,
    take,
)
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan

METHODS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "lion": {},
    "adafactor": {"scale_by_weights": True},
    "muon": {},
    "schedule_free": {},
    "adamw_bf16": {},
    "adamw_8bit": {},
    "adamw_4bit": {},
}
EVERY = sorted(METHODS)


def made_of(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, list[Any]]:
    roles = chosen_optimizer(name).roles
    slots = slots_of(*(() if "norm" in roles else (MATRICES,)), dtype=dtype)
    return optimizer(name, slots, **METHODS[name]), slots


@pytest.mark.parametrize("name", EVERY)
def test_the_divisor_divides_the_gradients(name: str) -> None:
    (plain, one), (scaled, two) = made_of(name), made_of(name)
    for step in range(4):
        take(plain, gradients(one, step), decay=0.1)
        take(scaled, gradients(two, step), decay=0.1, divisor=1024.0)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.master, b.master), a.name


@pytest.mark.covers("TRN-25: NaN/Inf guard")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EVERY)
def test_a_skipped_step_changes_nothing(name: str, dtype: torch.dtype) -> None:
    """Also as the first of all; and the next good step counts as if it were not."""
    made, slots = made_of(name, dtype)
    other, reference = made_of(name, dtype)
    for step, skip in enumerate((1.0, 0.0, 1.0, 0.0)):
        before = [everything(slot) for slot in slots]
        grads = gradients(slots, step)
        if skip:
            grads[1].view(-1)[2] = math.nan
            grads[-1].view(-1)[1] = math.inf
        take(made, grads, decay=0.1, skip=skip)
        if not skip:
            take(other, gradients(reference, step), decay=0.1)
        for slot, kept in zip(slots, before, strict=True):
            same = map(torch.equal, everything(slot), kept)
            assert all(same) if skip else not all(same), (slot.name, step)
    for a, b in zip(slots, reference, strict=True):
        assert all(map(torch.equal, everything(a), everything(b))), a.name
    for key, value in made.scalars().items():
        assert value == other.scalars()[key]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_half_precision_weights_are_rounded_masters(
    name: str, dtype: torch.dtype
) -> None:
    """Steps too small for the weights add up in the masters, as in float32."""
    made, slots = made_of(name, dtype)
    exact, wanted = made_of(name)
    for a, b in zip(slots, wanted, strict=True):
        a.master.copy_(b.master)
    for step in range(5):
        grads = [grad.to(dtype).float() for grad in gradients(slots, step)]
        take(made, grads, lr=1e-5, decay=0.1)
        take(exact, grads, lr=1e-5, decay=0.1)
    for a, b in zip(slots, wanted, strict=True):
        assert torch.equal(a.master, b.master), a.name
        assert torch.equal(a.parameter, a.master.to(dtype)), a.name


@pytest.mark.parametrize("name", EVERY)
def test_only_slots_that_decay_decay(name: str) -> None:
    """Decay is a factor on the weights, beside the step of the gradient."""
    (plain, one), (decayed, two) = made_of(name), made_of(name)
    before = [slot.master.clone() for slot in one]
    take(plain, gradients(one, 0))
    take(decayed, gradients(two, 0), lr=1e-2, decay=0.5)
    for a, b, start in zip(one, two, before, strict=True):
        expected = a.master - (5e-3 * start if a.decay else 0)
        torch.testing.assert_close(b.master, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_a_parameter_without_a_gradient_stays(name: str) -> None:
    made, slots = made_of(name)
    before = [everything(slot) for slot in slots]
    for slot, grad in zip(slots[:-2], gradients(slots, 0), strict=False):
        slot.parameter.grad = grad
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    made.step(lr=torch.tensor(0.1), weight_decay=0.1, divisor=one, skip=zero)
    for slot, kept in zip(slots, before, strict=True):
        same = all(map(torch.equal, everything(slot), kept))
        assert same == (slot in slots[-2:]), slot.name


@pytest.mark.parametrize("use_moe", [False, True])
@pytest.mark.parametrize("name", ["adamw", *EVERY])
def test_the_memory_of_a_plan_is_what_is_kept(name: str, use_moe: bool) -> None:
    """To the byte, of a model whose rows are no multiple of a block."""
    config = Config(
        preset="debug", optimizer=name, use_moe=use_moe, hidden_size=72, num_heads=2,
        num_kv_heads=1, num_layers=2, seq_length=32, tokenizer_vocab_size=300,
        intermediate_size=300, device="cpu", precision="fp32", batch_size=1,
    )  # fmt: skip
    plan = plan_for(config)
    kept = sum(
        tensor.nbytes
        for slot in assemble(plan).optimizer.slots
        for tensor in slot.state.values()
    )
    assert plan.memory["optimizer"] == kept


@pytest.mark.parametrize("name", ["sgd", "lion", "schedule_free"])
def test_a_rate_that_was_not_chosen_gets_advice(name: str) -> None:
    def told(**chosen: float) -> bool:
        plan = plan_for(
            Config(preset="debug", optimizer=name, vocab_size=300, **chosen)
        )
        return any("learning_rate is not chosen" in line for line in plan.warnings)

    assert told() and not told(learning_rate=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_every_tensor_has_one_optimizer(name: str) -> None:
    """What an optimizer does not train alone goes to the one that it names."""
    main = chosen_optimizer(name)
    plan = tiny_plan(True, optimizer=name)
    program = assemble(plan)
    for member in program.optimizer.members.values():
        for slot in member.optimizer.slots:
            role, dims = program.info_of(slot.name).role, slot.parameter.ndim
            assert role in member.declared.roles
            expected = name if role in main.roles else main.rest
            assert member.declared.name == expected, slot.name
            assert optimizer_of(slot.name, role, name, (), dims) == expected
    names = {slot.name for slot in program.optimizer.slots}
    assert names == {
        one.name for one in declared(plan.spec).values() if one.kind == "parameter"
    }


@pytest.mark.parametrize("moe", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", EVERY)
def test_captured_and_assembled_again_it_takes_the_same_steps(
    name: str, moe: bool, tmp_path: Any
) -> None:
    stream = stream_of(conversations(tmp_path))
    plan = tiny_plan(moe, optimizer=name)
    whole, _ = take_steps(assemble(plan), stream, 5)
    program = assemble(plan)
    first, progress = take_steps(program, stream, 3)
    program = reassembled(program, progress, plan)
    then, progress = take_steps(program, stream, 2, progress)
    assert torch.equal(torch.cat([first, then]), whole)
    assert whole[-1, 0] < whole[0, 0] * 1.5
    state = capture(program, progress)
    for kind, held in state.optimizer.items():
        for tensor, value in held.items():
            assert value.isfinite().all() if value.is_floating_point() else True, (
                kind,
                tensor,
            )


@pytest.mark.parametrize(
    ("name", "option", "value", "limit"),
    [
        ("sgd", "momentum", 1.0, "below 1"),
        ("muon", "polynomial", "cubic", "one of quintic, polar_express"),
        ("muon", "iterations", 0, "at least 1"),
    ],
)
def test_options_have_limits(name: str, option: str, value: Any, limit: str) -> None:
    entry = chosen_optimizer(name).options[option]
    assert limit in str(entry.limits(value))
    assert entry.limits(entry.default) is None


@pytest.mark.covers("MOD-24: optimizer state carried")
@pytest.mark.parametrize("name", EVERY)
def test_experts_come_and_go_with_their_states(name: str, tmp_path: Any) -> None:
    plan = tiny_plan(True, optimizer=name)
    program = assemble(plan)
    _, progress = take_steps(program, stream_of(conversations(tmp_path)), 2)
    state = capture(program, progress, everything=True)
    grown = add_expert(state)
    assert plan.spec.moe is not None
    for count, edited in ((5, grown), (4, prune_expert(grown, {0: 4, 1: 4}))):
        moe = replace(plan.spec.moe, num_experts=count)
        again = assemble(
            plan.replace(spec=replace(plan.spec, moe=moe)),
            StateSource(edited),
            meta=edited,
        )
        found = capture(again, progress, everything=True).optimizer
        for kind, held in edited.optimizer.items():
            if kind == "ema":  # made from the weights, to which noise was added
                continue
            for key, tensor in held.items():
                assert torch.equal(found[kind][key], tensor), (kind, key)
    for kind, held in state.optimizer.items():
        for key, tensor in held.items():
            assert torch.equal(found[kind][key], tensor), (kind, key)


def test_muon_trains_no_vector() -> None:
    with pytest.raises(LuminaError, match=r"muon cannot train .* whose role is norm"):
        bytes_per_parameter(tiny_plan().spec, "adamw", ("role:norm=muon",), ())
