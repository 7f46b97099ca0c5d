"""All weights of blocks are streamed while they train, and their gradients leave.

As in `test_streamed`, what a page comes into and leaves is NaN on the CPU, too.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from assemble.test_streamed import LAYERS, Away, alike, away, deep, stream
from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.program import Program
from lumina.data.packed_stream import BatchStream
from lumina.errors import LuminaError
from lumina.optim.leaving import Leaving
from lumina.optim.streamed_slot import StreamedSlot
from lumina.plan.plan import Plan
from programs import reassembled, take_steps, tiny_plan

__all__ = ["away", "stream"]

BESIDE = {"weights_in": "host", "optimizer_states_in": "host"}


def trained(**changes: Any) -> Plan:
    moe = changes.pop("moe", False)
    values = {"max_grad_norm": 0.5, "compute_dtype": "bfloat16"} | changes
    return deep(tiny_plan(moe, **values))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compute_dtype": "float32"},
        {"micro_batch_size": 2, "gradient_checkpointing": "full"},
        {"micro_batch_size": 4, "compute_dtype": "float32", "weights_ahead": 2},
        {"gradient_checkpointing": "sqrt"},
        {"gradient_checkpointing": "selective"},
        {"gradient_checkpointing": "full", "feedforward_tile": 128},
        {"chunk_size": 16, "attention": "blockwise"},
        {"optimizer_in_backward": True, "max_grad_norm": 0.0},
        {
            "optimizer_in_backward": True,
            "max_grad_norm": 0.0,
            "gradient_checkpointing": "full",
            "compute_dtype": "float32",
        },
        {"optimizer": "adamw_8bit", "optimizer_groups": ("*attention*=lion",)},
        {"moe": True, "micro_batch_size": 4},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "plain",
)
def test_it_trains_the_same(
    stream: BatchStream, away: Away, changes: dict[str, Any]
) -> None:
    plan = trained(**changes)
    beside = assemble(plan.replace(**BESIDE))
    if plan.optimizer_in_backward:  # norms are summed in the order of the pages
        plan = plan.replace(optimizer_states_in="host")
    alike(assemble(plan), beside, stream, steps=3)
    assert away.brought > LAYERS


def test_gradients_leave_and_a_step_waits_for_slow_ones(
    stream: BatchStream, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are summed on the host, and what is read too early would be seen."""
    carry, sent = Leaving._carry, []

    def late(self: Leaving, gradient: Tensor, into: Tensor, add: bool, _: Any) -> None:
        if not add:
            into.fill_(torch.nan)
        time.sleep(0.005)
        carry(self, gradient, into, add, None)
        sent.append(add)

    monkeypatch.setattr(Leaving, "_carry", late)
    plan = trained(micro_batch_size=4)
    beside = assemble(plan.replace(**BESIDE))
    alike(assemble(plan), beside, stream)
    slots = [one for one in beside.optimizer.slots if isinstance(one, StreamedSlot)]
    assert len(slots) == LAYERS * 6
    assert sent.count(False) == sent.count(True) == 2 * len(slots)
    assert [slot.parameter.grad for slot in slots] == [None] * len(slots)


def test_a_run_goes_on_with_its_weights_on_the_device_and_back(
    stream: BatchStream, away: Away, tmp_path: Path
) -> None:
    plan = trained(offload_folder=str(tmp_path))
    streamed = plan.replace(weights_in="disk", optimizer_states_in="disk")
    plain = assemble(plan)
    wanted, reached = take_steps(plain, stream, 6)
    beside = assemble(streamed)
    first, progress = take_steps(beside, stream, 2)
    beside = reassembled(beside, progress, plan)
    then, progress = take_steps(beside, stream, 2, progress)
    beside = reassembled(beside, progress, streamed)
    last, progress = take_steps(beside, stream, 2, progress)
    found = torch.cat([first, then, last])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    same_states(plain, beside, reached)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_saved_after_a_broken_step_is_the_last_whole_one(
    stream: BatchStream, away: Away, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """And the run goes on as one that nothing happened to."""
    plan = trained(compute_dtype=dtype)
    plain, beside = assemble(plan), assemble(plan.replace(**BESIDE))
    _, progress = take_steps(plain, stream, 1)
    _, reached = take_steps(beside, stream, 1)
    streamed = beside.network.backbone.streamed
    whole = streamed.gone_back

    def breaks(index: int) -> None:
        if index == 1:
            raise torch.OutOfMemoryError("for a test")
        whole(index)

    monkeypatch.setattr(streamed, "gone_back", breaks)
    with pytest.raises(torch.OutOfMemoryError):
        take_steps(beside, stream, 1, reached)
    monkeypatch.setattr(streamed, "gone_back", whole)
    beside.optimizer.zero_grad()
    same_states(plain, beside, progress)
    wanted, _ = take_steps(plain, stream, 2, progress)
    found, _ = take_steps(beside, stream, 2, reached)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def same_states(one: Program, two: Program, progress: Progress) -> None:
    """Weights and states of the optimizer are equal to the bit."""
    first, second = (capture(each, progress, everything=True) for each in (one, two))
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert tensor.isfinite().all() and torch.equal(tensor, second.tensors[name])
    for kind, held in first.optimizer.items():
        for name, tensor in held.items():
            assert torch.equal(tensor, second.optimizer[kind][name]), (kind, name)


def test_an_evaluation_reads_the_weights_of_the_step_before(
    stream: BatchStream, away: Away
) -> None:
    plan = trained()
    programs = [assemble(plan), assemble(plan.replace(**BESIDE))]
    losses = []
    for program in programs:
        take_steps(program, stream, 2)
        held = stream.step(
            dict(stream.start), rank=0, data_ranks=1, micro_batch_size=8
        ).micro_batches[0]
        with torch.no_grad(), program.evaluation():
            losses.append(program.model(held)[0].loss_sum)
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer_states_in": "device"}, "the optimizer's states are on the device"),
        ({"optimizer": "schedule_free"}, "evaluates other weights"),
        ({"weights_dtype": "bfloat16"}, "16 bits without masters"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LuminaError) as caught:
        assemble(trained(**BESIDE | changes))
    assert caught.value.code == "E002" and words in caught.value.message
