"""Ranks of a run whose experts are divided over them, in processes of their own."""

from __future__ import annotations

from dataclasses import replace

import torch

from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from lumina.data.store import TokenStore
from lumina.model.moe import routed_layers
from lumina.train.controls import Change, Controls
from lumina.train.controls.apply_change import program_for
from lumina.train.looks.weight_changes import WeightChanges
from lumina.train.step import train_step
from lumina.train.watch import Watch
from programs import joined, stream_of, take_steps, tiny_plan

RANKS, FIRST, THEN = 4, 3, 2
RUNS = {
    "all": (4, {"ema_decay": 0.9, "max_grad_norm": 0.5}),
    "halves": (2, {"ema_decay": 0.9, "max_grad_norm": 0.5}),
    "capacity": (
        2,
        {"dispatch": "capacity", "capacity_factor": 0.8, "overflow": "reroute"},
    ),
    "muon": (4, {"optimizer": "muon", "bias_update_rate": 0.01}),
    "recomputed": (2, {"gradient_checkpointing": "full", "compute_dtype": "bfloat16"}),
}
"""Over how many of four ranks experts are divided, and what each run is."""

OF_EXPERTS = ("dispatch", "capacity_factor", "bias_update_rate", "overflow")
"""Names of a `MoeSpec` among them."""


def plan_of(size, world_size=RANKS, **changes):
    """Eight rows a step in micro-batches of one, on ranks or in one process."""
    experts = {n: changes.pop(n) for n in OF_EXPERTS if n in changes}
    if world_size > 1:
        changes |= {"parallel": "ddp", "expert_parallel_size": size}
    plan = tiny_plan(True, world_size=world_size, micro_batch_size=1, **changes)
    return plan.replace(spec=replace(plan.spec, moe=replace(plan.spec.moe, **experts)))


def shown(state):
    """A State as arrays, which pass between processes."""
    moments = {
        slot: {name: one.float().numpy() for name, one in held.items()}
        for slot, held in state.optimizer.items()
    }
    return {name: one.numpy() for name, one in state.tensors.items()}, moments


def same(left, right):
    """Whether two States hold the same tensors, bit for bit."""
    pairs = [(left.tensors, right.tensors)]
    pairs += [(left.optimizer[slot], right.optimizer[slot]) for slot in left.optimizer]
    return left.optimizer.keys() == right.optimizer.keys() and all(
        one.keys() == other.keys()
        and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in pairs
    )


def held_by(program):
    """Rows of experts that this rank has of weights, masters and states."""
    layer = next(routed_layers(program.network))
    slot = next(s for s in program.optimizer.slots if s.name.endswith("gate_up"))
    states = [state.shape[0] for state in slot.state.values()]
    return [layer.gate_up.to_local().shape[0], slot.master.shape[0], *states]


def looked(program, stream, progress):
    """What a look at weights and gradients finds in the next step."""
    batches = stream.step(
        progress.cursor,
        rank=program.mesh.data.rank,
        data_ranks=program.mesh.data.size,
        micro_batch_size=program.plan.micro_batch_size,
    )
    look = WeightChanges(program, batches)
    train_step(program, batches, progress.step, watch=Watch([look]))
    return look.row(look.values().tolist())


def further(ranks, stream, plan, state, progress):
    """A few more steps from a State; whether it came back whole; the next look."""
    program = assemble(plan, StateSource(state), ranks=ranks, meta=state)
    moved = {name: order.tolist() for name, order in program.row_order.items()}
    back = same(state, capture(program, progress, everything=True))
    after = replace(progress, cursor=dict(progress.cursor))
    numbers, after = take_steps(program, stream, THEN, after)
    then = capture(program, after, everything=True)
    found = {
        "numbers": numbers.tolist(),
        "back": back,
        "moved": moved,
        "tensors": shown(then)[0],
        "look": looked(program, stream, after),
    }
    program.close()
    return found


def experts_here(program):
    """Which experts of each routed layer this rank holds."""
    found = []
    for layer in routed_layers(program.network):
        rank, here = program.mesh.expert.rank, layer.parted.here
        order = layer.parted.held
        held = list(range(layer.spec.num_experts)) if order is None else order.tolist()
        found.append(held[rank * here : (rank + 1) * here])
    return found


def redistributed(rank, place, folder, count, size, changes, results):
    """In a process of several: steps, changes of controls, and steps after each.

    Beside it a run from the same State in which nothing is changed.
    """
    ranks = joined(rank, count, place)
    stream = stream_of(TokenStore.open(folder))
    plan = plan_of(size, count, ema_decay=0.9, max_grad_norm=0.5)
    program = assemble(plan, ranks=ranks)
    _, progress = take_steps(program, stream, FIRST)
    begun = capture(program, progress, everything=True)
    told = []
    for name, value in changes:
        before = capture(program, progress, everything=True)
        held = experts_here(program)
        change = Change(len(told) + 1, name, value, "a test", None, step=progress.step)
        program = program_for(program, progress, Controls(), change)
        told.append(
            {
                "old": change.old,
                "same": same(before, capture(program, progress, everything=True)),
                "held": held,
                "holds": experts_here(program),
                "rows": held_by(program),
            }
        )
    after = replace(progress, cursor=dict(progress.cursor))
    numbers, after = take_steps(program, stream, THEN, after)
    state = capture(program, after, everything=True)
    program.close()
    program = assemble(plan, StateSource(begun), ranks=ranks, meta=begun)
    plain, progress = take_steps(program, stream, THEN, progress)
    wanted = capture(program, progress, everything=True)
    program.close()
    results.put(
        (
            rank,
            {
                "changes": told,
                "numbers": numbers.tolist(),
                "plain": plain.tolist(),
                "state": shown(state),
                "wanted": shown(wanted),
            },
        )
    )
    ranks.barrier()
    ranks.disconnect()


def divided(rank, place, folder, results):
    """In a process of four: every run, and what was saved, taken up otherwise."""
    ranks = joined(rank, RANKS, place)
    stream = stream_of(TokenStore.open(folder))
    found = {}
    for name, (size, changes) in RUNS.items():
        plan = plan_of(size, **dict(changes))
        program = assemble(plan, ranks=ranks)
        numbers, progress = take_steps(program, stream, FIRST)
        state = capture(program, progress, everything=True)
        found[name] = {
            "numbers": numbers.tolist(),
            "held": held_by(program),
            "mine": sorted(capture(program, progress).tensors),
            "state": shown(state),
            "extra": state.extra,
            "progress": progress,
        }
        program.close()
        if name == "all":
            for other, changed in {
                "same": {},
                "halves": {"expert_parallel_size": 2},
                "together": {"expert_parallel_size": 1},
                "moved": {
                    "expert_parallel_size": 2,
                    "expert_placement_policy": "balanced",
                },
            }.items():
                then = plan.replace(**changed)
                found[other, "then"] = further(ranks, stream, then, state, progress)
    results.put((rank, found))
    ranks.barrier()
    ranks.disconnect()
