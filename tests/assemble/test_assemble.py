"""assemble -> train -> capture -> assemble otherwise -> train: nothing shows."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.errors import LuminaError
from programs import (
    conversations,
    one_rank,
    reassembled,
    stream_of,
    take_steps,
    tiny_plan,
    told_state,
)
from training import in_processes


@pytest.fixture(scope="module")
def store(tmp_path_factory, lumina_cache):
    return conversations(tmp_path_factory.mktemp("chats"))


@pytest.mark.covers("TRN-19")
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 2},
        {"gradient_checkpointing": "full"},
        {"gradient_checkpointing": "selective", "micro_batch_size": 4},
    ],
    ids=str,
)
def test_the_loss_goes_on_as_if_nothing_had_been_assembled(store, moe, changes):
    stream = stream_of(store)
    plan = tiny_plan(moe, ema_decay=0.9)
    wanted, _ = take_steps(assemble(plan), stream, 10)
    program = assemble(plan)
    first, progress = take_steps(program, stream, 5)
    other = tiny_plan(moe, ema_decay=0.9, **changes)
    program = reassembled(program, progress, other)
    then, _ = take_steps(program, stream, 5, progress)
    assert program.plan is other
    torch.testing.assert_close(torch.cat([first, then]), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 5e-3)]
)
def test_another_precision_goes_on_within_its_rounding(store, moe, dtype, tolerance):
    """Eight bits of mantissa are 0.4%: five steps stay within 2% of the loss."""
    stream = stream_of(store)
    plan = tiny_plan(moe)
    wanted, _ = take_steps(assemble(plan), stream, 10)
    program = assemble(plan)
    first, progress = take_steps(program, stream, 5)
    program = reassembled(program, progress, tiny_plan(moe, compute_dtype=dtype))
    half, _ = take_steps(program, stream, 3, progress)
    program = reassembled(program, progress, plan)
    back, _ = take_steps(program, stream, 2, progress)
    found = torch.cat([first, half, back])
    torch.testing.assert_close(found[:, 0], wanted[:, 0], rtol=tolerance, atol=0)
    assert not torch.equal(found[5:], wanted[5:])  # it did compute otherwise


@pytest.mark.covers("CKP-02: model, optimizer")
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_captured_is_what_was_assembled(store, moe, dtype):
    plan = tiny_plan(moe, compute_dtype=dtype, ema_decay=0.5, micro_batch_size=4)
    program = assemble(plan)
    _, progress = take_steps(program, stream_of(store), 3)
    state = capture(program, progress)
    again = capture(assemble(plan, StateSource(state), meta=state), progress)
    assert again.json_parts() == state.json_parts()
    assert list(again.tensors) == list(state.tensors)
    for name, tensor in state.tensors.items():
        assert torch.equal(again.tensors[name], tensor), name
        assert tensor.dtype == torch.float32, name
    assert set(state.optimizer) == {"exp_avg", "exp_avg_sq", "ema"}
    for slot, held in state.optimizer.items():
        for name, tensor in held.items():
            assert torch.equal(again.optimizer[slot][name], tensor), (slot, name)


def test_a_captured_state_is_a_copy(store):
    program = assemble(tiny_plan())
    stream = stream_of(store)
    _, progress = take_steps(program, stream, 1)
    state = capture(program, progress)
    kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
    take_steps(program, stream, 2, progress)
    assert all(torch.equal(state.tensors[n], kept[n]) for n in kept)
    assert state.counters["step"] == 1


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_checkpointing": "full"},
        {"compute_dtype": "bfloat16", "micro_batch_size": 2, "ema_decay": 0.9},
    ],
    ids=str,
)
def test_a_closed_program_leaves_no_tensor_behind(store, moe, options):
    program = assemble(tiny_plan(moe, **options))
    _, progress = take_steps(program, stream_of(store), 2)
    held = [*program.network.parameters(), *program.network.buffers()]
    for slot in program.optimizer.slots:
        held += [slot.master, *slot.state.values()]
    if program.average is not None:
        held += program.average.averages
    watched = [weakref.ref(tensor) for tensor in held]
    del held, slot
    state = capture(program, progress)
    program.close()
    assert not any(ref() is not None for ref in watched)
    # The closed program itself is still in somebody's hands, the State too.
    assert program.plan and state.tensors


@pytest.mark.gpu
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
def test_a_closed_program_leaves_no_gpu_memory_behind(store, moe):
    plan = tiny_plan(moe, device="cuda", compute_dtype="bfloat16", ema_decay=0.9)
    # Once before: libraries keep workspaces of their own.
    program = assemble(plan)
    take_steps(program, stream_of(store), 2)
    program.close()
    del program
    gc.collect()
    before = torch.cuda.memory_allocated()
    program = assemble(plan.replace(gradient_checkpointing="full"))
    take_steps(program, stream_of(store), 2)
    assert torch.cuda.memory_allocated() > before
    program.close()
    del program
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_weights_of_another_shape_are_refused(store):
    state = capture(assemble(tiny_plan()), Progress())
    for change, told in (
        ({"hidden_size": 64}, "shape"),
        ({"num_layers": 3}, "missing"),
        ({"num_layers": 1}, "not expected"),
    ):
        plan = tiny_plan()
        spec = type(plan.spec).from_dict(plan.spec.to_dict() | change)
        with pytest.raises(LuminaError, match=told) as caught:
            assemble(plan.replace(spec=spec), StateSource(state), meta=state)
        assert caught.value.code == "E303"


def test_a_missing_moment_is_refused_and_weights_alone_are_enough(store):
    state = capture(assemble(tiny_plan()), Progress())
    del state.optimizer["exp_avg"]["backbone.norm.weight"]
    with pytest.raises(LuminaError, match="init-from") as caught:
        assemble(tiny_plan(), StateSource(state), meta=state)
    assert caught.value.code == "E303"
    program = assemble(tiny_plan(), StateSource(state))
    assert program.optimizer.members["adamw"].optimizer.steps[0] == 0


@pytest.mark.covers("TRN-31: deterministic seeds")
def test_initial_weights_are_the_seeds_whatever_the_plan(store):
    first = capture(assemble(tiny_plan(True)), Progress())
    same = capture(
        assemble(tiny_plan(True, compute_dtype="bfloat16", micro_batch_size=1)),
        Progress(),
    )
    other = capture(assemble(tiny_plan(True, seed=6)), Progress())
    assert all(torch.equal(same.tensors[n], t) for n, t in first.tensors.items())
    name = "backbone.embedding.weight"
    assert not torch.equal(other.tensors[name], first.tensors[name])


@pytest.mark.thorough
@pytest.mark.covers(
    "DST-01: gradient synchronisation", "DST-19: resume on other world size"
)
@pytest.mark.parametrize(
    ("moe", "parallel"),
    [
        (False, "fsdp2"),
        pytest.param(
            True,
            "ddp",
            # The second half of the run recomputes its blocks.
            marks=pytest.mark.covers(
                "MTX-07: DDP + checkpointing", "MTX-07: gradient sync"
            ),
        ),
        (True, "fsdp2"),
    ],
)
def test_two_ranks_and_back_to_one(store, moe, parallel):
    answers = in_processes(one_rank, 2, store.folder, moe, parallel, answers=3)
    by_rank = {a[0]: a for a in answers}
    # Every tensor is written by one rank, whole.
    mine, theirs = set(by_rank[0][2]), set(by_rank[1][2])
    _, tensors, moments, extra, progress = by_rank["state"]
    assert mine and theirs and not mine & theirs
    assert mine | theirs == set(tensors)
    stream = stream_of(store)
    wanted, _ = take_steps(assemble(tiny_plan(moe, ema_decay=0.9)), stream, 10)
    found = torch.tensor(by_rank[0][1])
    torch.testing.assert_close(found, wanted[:8], rtol=1e-5, atol=1e-5)
    # And on, alone.
    state = told_state(tensors, moments, extra, progress.step)
    program = assemble(tiny_plan(moe, ema_decay=0.9), StateSource(state), meta=state)
    last, _ = take_steps(program, stream, 2, progress)
    torch.testing.assert_close(last, wanted[8:], rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.covers("TRN-22: --compile (torch.compile)")
@pytest.mark.parametrize("mode", ["none", "full", "selective"])
def test_checkpointed_blocks_are_compiled(store, monkeypatch, mode):
    """A wrapper the compiler skips would leave every block uncompiled, and silent."""
    import torch._dynamo as dynamo

    compile_block = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self: compile_block(self, backend="aot_eager"),
    )
    losses = {}
    for compiled in (False, True):
        dynamo.reset()
        dynamo.utils.counters.clear()
        plan = tiny_plan(gradient_checkpointing=mode, compile=compiled)
        program = assemble(plan)
        losses[compiled], _ = take_steps(program, stream_of(store), 3)
        graphs = dynamo.utils.counters["stats"]["unique_graphs"]
        program.close()
        assert bool(graphs) is compiled
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-5, atol=1e-5)
