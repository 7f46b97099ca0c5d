"""The carry of a recurrent backbone that Lumina knows nothing about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from lumina.model.registry import load_plugins
from lumina.model.spec import PartsSpec
from programs import conversations, stream_of, take_steps, tiny_plan

OWN = str(Path(__file__).parents[1] / "own_parts.py")


@pytest.fixture
def plan():
    load_plugins([OWN])
    plan = tiny_plan(micro_batch_size=4)
    parts = PartsSpec(backbone="running_mean", plugins=(OWN,))
    return plan.replace(spec=replace(plan.spec, parts=parts))


@pytest.fixture
def stream(tmp_path):
    return stream_of(conversations(tmp_path))


def test_every_forward_keeps_its_own(plan, stream) -> None:
    program = assemble(plan)
    take_steps(program, stream, 3)
    assert [carry.steps.tolist() for carry in program.carries] == [[3] * 4] * 2
    assert not torch.equal(program.carries[0].state, program.carries[1].state)


def test_a_step_that_is_skipped_leaves_nothing_of_it(plan, stream) -> None:
    program = assemble(plan)
    _, progress = take_steps(program, stream, 2)
    program.carries[1].state[2, 3] = float("nan")
    before = {n: p.detach().clone() for n, p in program.network.named_parameters()}
    numbers, progress = take_steps(program, stream, 1, progress)
    assert not numbers.isfinite().all()
    for name, parameter in program.network.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert [carry.steps.tolist() for carry in program.carries] == [[0] * 4] * 2
    numbers, _ = take_steps(program, stream, 2, progress)
    assert numbers.isfinite().all()


def test_rows_that_a_larger_batch_adds_begin_anew(plan, stream) -> None:
    program = assemble(plan)
    _, progress = take_steps(program, stream, 2)
    state = capture(program, progress, everything=True)
    assert state.optimizer["carry"]["steps"].tolist() == [2] * 8
    larger = plan.replace(global_batch_size=12, grad_accum=3)
    program = assemble(larger, StateSource(state), meta=state)
    assert [c.steps.tolist() for c in program.carries] == [[2] * 4, [2] * 4, [0] * 4]
    held = torch.cat([c.state for c in program.carries])
    assert torch.equal(held[:8], state.optimizer["carry"]["state"])
    assert not held[8:].any()
