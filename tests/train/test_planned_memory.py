"""The trace of a step's memory against what torch really holds, and what is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.measure.live_bytes import LiveBytes
from lumina.plan.plan import Plan
from lumina.train.planned_memory.allocator import CachingAllocator
from lumina.train.planned_memory.steps import STAGES, random_weights, take_steps
from lumina.train.planned_memory.trace import trace
from machines import cpu, gpu, plan_for

MIB = 2**20
SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "seq_length": 128,
    "intermediate_size": 384,
    "batch_size": 4,
    "steps": 10,
    "gradient_checkpointing": "none",
    "loss_chunk_bytes": 2**19,
}
MOE = {
    "use_moe": True,
    "num_experts": 4,
    "moe_top_k": 2,
    "moe_intermediate_size": 96,
}


def planned(machine: Any = None, **options: Any) -> Plan:
    accumulate = options.pop("accumulate", 1)
    values = SHAPE | {"global_batch_size": SHAPE["batch_size"] * accumulate} | options
    return plan_for(Config(**values), machine or cpu())


def really_held(plan: Plan) -> dict[str, int]:
    """Bytes of real tensors at most, by stage, as another counter counts them."""
    program = Program(plan, Ranks())
    program.materialise(random_weights(program))
    meter, found = LiveBytes(), {}
    held: list[Any] = [*program.network.parameters(), *program.network.buffers()]
    for slot in program.optimizer.slots:
        held += [slot.master, *slot.state.values()]
        held += [] if slot.accumulator is None else [slot.accumulator]
    held += getattr(program.average, "averages", [])
    for tensor in held:
        meter.add(tensor.detach())

    def ended(stage: str) -> None:
        found[stage] = max(found.get(stage, 0), meter.peak)
        meter.peak = meter.now

    with meter:
        take_steps(program, ended)
    program.close()
    return found


@pytest.mark.covers(
    "MEM-19: gradients, activations, buffers", "MEM-19: validated against measurement"
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16", "accumulate": 2},
        {"gradient_checkpointing": "full", "ema_decay": 0.9},
        {"gradient_checkpointing": "selective", "dropout": 0.1},
        MOE,
        {"use_mod": True},
        {"optimizer_in_backward": True, "max_grad_norm": 0.0},
        {"feedforward_tile": 128},
        {"use_peft": True, "init_from": "base", "load_in_4bit": True},
    ],
    ids=[
        "dense",
        "accumulation",
        "full-average",
        "selective-dropout",
        "experts",
        "depths",
        "backward-update",
        "tiles",
        "four-bits",
    ],
)
def test_a_trace_finds_what_a_step_holds(options: dict[str, Any]) -> None:
    plan = planned(**options)
    traced = trace(plan)
    assert traced.problem == ""
    real = really_held(plan)
    for stage in STAGES:
        assert traced.requested[stage] == pytest.approx(real[stage], rel=0.05), stage
    # An allocator gives no less than it is asked for, and takes no less than it gives.
    for stage in STAGES:
        assert (
            traced.requested[stage] <= traced.allocated[stage] <= traced.reserved[stage]
        )


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "auto"},
        {"precision": "fp32"},
        {"precision": "auto", "gradient_checkpointing": "selective"},
        MOE,
        {"use_mor": True, "mor_recursions": 2, "num_layers": 3},
        {"use_hrm": True, "hrm_mode": "language_model", "halt_max_steps": 2},
        {"use_chunked_training": True, "chunk_size": 64},
        {"optimizer_states_in": "host"},
        {"activations_in": "host", "gradient_checkpointing": "full"},
        {"use_peft": True, "init_from": "base", "load_in_8bit": True},
    ],
    ids=[
        "half",
        "float",
        "selective",
        "experts",
        "recursions",
        "reasoner",
        "chunks",
        "states-in-host",
        "inputs-in-host",
        "eight-bits",
    ],
)
def test_a_gpu_that_is_not_there_is_traced_within_the_bound(
    options: dict[str, Any],
) -> None:
    plan = planned(gpu(), compile=False, **options)
    traced = trace(plan)
    assert traced.problem == ""
    assert traced.peak <= plan.memory["bound"]
    stage = max(STAGES, key=lambda one: traced.allocated[one])
    standing = sum(traced.standing[stage].values())
    assert standing == pytest.approx(traced.allocated[stage], rel=0.02)
    assert traced.standing[stage]["workspaces of matrix products"] == 64 * MIB or (
        stage in ("forward", "evaluation")
    )


def test_what_lives_in_host_memory_is_not_on_the_device() -> None:
    here, there = (
        trace(planned(gpu(), compile=False, optimizer_states_in=place))
        for place in ("device", "host")
    )
    states = 8 * planned(gpu()).parameters
    assert here.elsewhere == 0
    assert there.elsewhere >= states
    assert there.held <= here.held - states


def test_a_compiled_plan_says_what_was_taken_off() -> None:
    eager, compiled = (planned(gpu(), compile=value) for value in (False, True))
    without, found = trace(eager), trace(compiled)
    assert not without.corrected and found.corrected["forward"] > 0
    assert found.allocated["forward"] == (
        without.allocated["forward"] - found.corrected["forward"]
    )
    assert any("86%" in words for words in found.assumed)


def test_what_cannot_be_traced_is_named() -> None:
    puzzles = planned(use_hrm=True, hrm_mode="puzzle")
    assert "puzzles" in trace(puzzles).problem
    several = planned().replace(world_size=2)
    assert "2 processes" in trace(several).problem
    assert trace(several).allocated == {}


def test_a_trace_leaves_torch_as_it_was() -> None:
    trace(planned(gpu()))
    x = torch.ones(2, requires_grad=True)
    assert x.device.type == "cpu" and not x.is_cuda and torch.zeros(1).item() == 0
    torch.nn.functional.rms_norm(x, (2,)).sum().backward()
    assert x.grad is not None and x.grad.device.type == "cpu"


def test_the_allocator_rounds_divides_and_joins() -> None:
    allocator = CachingAllocator()
    one, two = allocator.take(1), allocator.take(513)
    assert (allocator.allocated, allocator.reserved) == (512 + 1024, 2 * MIB)
    allocator.take(3 * MIB)
    assert allocator.reserved == 22 * MIB
    allocator.take(17 * MIB)  # 17 MiB are left of the 20, and less than 1 MiB besides
    assert allocator.reserved == 22 * MIB
    allocator.take(11 * MIB + 1)
    assert allocator.reserved == (22 + 12) * MIB
    # The rest of that segment is no more than 1 MiB, and stays with the block.
    assert allocator.allocated == 512 + 1024 + (3 + 17 + 12) * MIB
    allocator.give(one)
    allocator.give(two)
    whole = allocator.take(MIB)
    again = allocator.take(MIB)
    assert allocator.reserved == 34 * MIB  # neighbours were joined
    allocator.forget_peaks()
    allocator.give(whole)
    allocator.give(again)
    assert allocator.most_allocated == allocator.allocated + 2 * MIB
