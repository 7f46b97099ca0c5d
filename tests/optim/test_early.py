"""The optimizer in the backward pass."""

from __future__ import annotations

import math

import pytest
import torch

from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.optim.paging import sizes
from lumina.train.controls.optimizer import MaxGradNorm
from machines import cpu, gpu, plan_for
from programs import conversations, stream_of, take_steps, tiny_plan


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory):
    return conversations(tmp_path_factory.getbasetemp())


def states_equal(one, other) -> None:
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name
    for slot, held in one.optimizer.items():
        for name, value in held.items():
            assert torch.equal(value, other.optimizer[slot][name]), (slot, name)


@pytest.mark.parametrize(("moe", "place"), [(0, "device"), (1, "device"), (0, "disk")])
def test_a_run_is_the_run_that_updates_after_the_backward_pass(
    store, moe, place, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(sizes, "PAGE_BYTES", 20_000)
    stream = stream_of(store)
    changes = {"weight_decay": 0.1, "ema_decay": 0.9}
    plan = tiny_plan(bool(moe), gradient_checkpointing="full", **changes)
    own = {"optimizer_states_in": place, "offload_folder": str(tmp_path)}
    plain = assemble(plan)
    early = assemble(plan.replace(optimizer_in_backward=True, **own))
    there: list[int] = []
    slots = early.optimizer.slots

    def count(*_: object) -> None:
        there.append(sum(slot.parameter.grad is not None for slot in slots))

    # The embedding's gradient is complete last: all others have been let go of by then.
    early.network.backbone.embedding.weight.register_post_accumulate_grad_hook(count)
    want, reached = take_steps(plain, stream, 4)
    got, progress = take_steps(early, stream, 4)
    assert torch.allclose(want, got, rtol=1e-6)  # the norm is a sum in another order
    assert torch.equal(want[:, 0], got[:, 0])
    # A page waits for all of its gradients; the first one has the embedding.
    assert there[0] == (0 if place == "device" else there[0]) and len(set(there)) == 1
    assert max(there) < len(slots) / 3
    one = capture(plain, reached, everything=True)
    other = capture(early, progress, everything=True)
    states_equal(one, other)
    assert other.extra["optimizer_steps"] == 4
    # And a checkpoint goes on either way.
    again = assemble(plan, StateSource(other), meta=other)
    want, _ = take_steps(plain, stream, 2, reached)
    got, _ = take_steps(again, stream, 2, progress)
    assert torch.equal(want, got)


def test_a_gradient_that_is_not_finite_changes_nothing_of_its_own(store) -> None:
    stream = stream_of(store)
    program = assemble(tiny_plan(optimizer_in_backward=True))
    _, progress = take_steps(program, stream, 1)
    weight = program.network.backbone.embedding.weight
    before = weight.detach().clone()
    hook = weight.register_hook(lambda g: torch.full_like(g, math.nan))
    numbers, progress = take_steps(program, stream, 1, progress)
    hook.remove()
    assert not math.isfinite(numbers[0, 1])
    assert torch.equal(weight, before)
    numbers, _ = take_steps(program, stream, 1, progress)
    assert torch.isfinite(numbers).all() and not torch.equal(weight, before)


def test_only_the_gradients_of_a_block_are_in_the_plan() -> None:
    dense = Config.resolve(preset="dense_3b").replace(
        max_grad_norm=0.0, batch_size=1, global_batch_size=1
    )
    plain = plan_for(dense, gpu())
    early = plan_for(dense.replace(optimizer_in_backward=True), gpu())
    assert early.memory["gradients"] < plain.memory["gradients"] / 3
    assert "gradient_variance" not in early.measures


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_grad_norm": 1.0}, "max_grad_norm 1"),
        ({"grad_accum": 2}, "grad_accum is 2"),
        ({"precision": "fp16"}, "precision fp16"),
        ({"gradient_steps": ("centralise",)}, "gradient_steps"),
        ({"use_chunked_training": True}, "use_chunked_training"),
        ({"weight_changes_every": 1}, "weight_changes_every"),
        ({"batch_size": 2, "global_batch_size": 8}, "has 4 of them"),
        ({"parallel": "ddp", "world_size": 2}, "exchanges gradients"),
    ],
)
def test_what_needs_all_gradients_is_refused(options, named) -> None:
    world = {"world_size": options.pop("world_size", 1)}
    options = {"max_grad_norm": 0.0} | options
    with pytest.raises(LuminaError) as caught:
        config = Config(vocab_size=64, steps=4, optimizer_in_backward=True, **options)
        plan_for(config, cpu(), **world)
    assert caught.value.code == "E002" and named in caught.value.message


def test_a_run_that_updates_early_takes_no_clip_later() -> None:
    plan = tiny_plan(optimizer_in_backward=True)
    with pytest.raises(LuminaError) as caught:
        MaxGradNorm().check_plan(plan)
    assert caught.value.code == "E002"
    MaxGradNorm().check_plan(tiny_plan())
