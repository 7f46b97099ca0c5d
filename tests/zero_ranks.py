"""Two ranks of a run with the stages of ZeRO, in processes of their own."""

from __future__ import annotations

import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.held_bytes import held_bytes
from lumina.assemble.source import StateSource
from lumina.data.store import TokenStore
from lumina.measure.live_bytes import LiveBytes
from lumina.optim.declared import chosen_optimizer, known_optimizers
from lumina.train.looks.gradient_variance import GradientVariance
from lumina.train.looks.update_rms import UpdateRms
from lumina.train.looks.weight_changes import WeightChanges
from lumina.train.step import train_step
from lumina.train.watch import Watch
from programs import joined, stream_of, take_steps, tiny_plan

STAGES = ("zero1", "zero2", "fsdp2")
FIRST, THEN = 3, 2
LOOKED = (WeightChanges, UpdateRms, GradientVariance)
SETTINGS = {
    "float32": {"max_grad_norm": 0.5, "ema_decay": 0.9},
    "recomputed": {"compute_dtype": "bfloat16", "gradient_checkpointing": "full"},
    "routed": {"moe": True, "max_grad_norm": 0.5},
    "one_pass": {"micro_batch_size": 4, "compute_dtype": "bfloat16"},
}
BF16 = {"compute_dtype": "bfloat16"}
_BELOW = "stage3_param_persistence_threshold"
WHOLE = {
    "none": {_BELOW: 0, "micro_batch_size": 4},
    "but_embeddings": {_BELOW: 10_000},
    "in_bfloat16": {_BELOW: 10_000, "micro_batch_size": 4} | BF16,
    "all": {_BELOW: 10**9, "micro_batch_size": 4},
}
"""Runs of stage 3, by which parameters stay whole."""


def plan_of(parallel="zero1", moe=False, **changes):
    """Two micro-batches a step on each of two ranks, unless the changes say more."""
    values = {"micro_batch_size": 2} | changes
    return tiny_plan(moe, world_size=2, parallel=parallel, **values)


def shown(state):
    """A State as arrays, which pass between processes."""
    moments = {
        slot: {name: one.float().numpy() for name, one in held.items()}
        for slot, held in state.optimizer.items()
    }
    return {name: one.numpy() for name, one in state.tensors.items()}, moments


def digits(program, progress, stream):
    """The losses and norms of some more steps, and all weights after them."""
    numbers, after = take_steps(program, stream, THEN, progress)
    state = capture(program, after, everything=True)
    return numbers, shown(state)[0]


def held_by(program, adding):
    """Bytes of what this rank keeps of weights, masters, moments and gradients."""
    slots = program.optimizer.slots
    apart = [slot for slot in slots if slot.parameter.dtype != torch.float32]
    states = [state for slot in slots for state in slot.state.values()]
    gradients = [slot.accumulator for slot in slots] + program.way.sums()
    return {
        "weights": sum(one.nbytes for one in program.network.parameters()),
        "master_weights": sum(slot.master.nbytes for slot in apart),
        "optimizer": sum(state.nbytes for state in states),
        "gradients": sum(one.nbytes for one in gradients) + adding,
    }


def bytes_of_gradients(program):
    """A list that gets what there is of whole gradients before each last backward."""
    found, sync = [], program.way.sync

    def noted(last):
        grads = [p.grad for p in program.network.parameters() if p.grad is not None]
        if last:
            found.append(sum(one.nbytes for one in grads))
        return sync(last)

    program.way.sync = noted
    return found


def two_stages(rank, place, folder, results):
    """Train with each setting, save, and go on in every stage and with DDP."""
    ranks = joined(rank, 2, place)
    stream = stream_of(TokenStore.open(folder))
    found = {}
    for name, changes in SETTINGS.items():
        program = assemble(plan_of(**changes), ranks=ranks)
        adding = bytes_of_gradients(program)
        numbers, progress = take_steps(program, stream, FIRST)
        state = capture(program, progress, everything=True)
        mine = sorted(capture(program, progress).tensors)
        held = held_by(program, max(adding))
        begun = Progress(progress.step, cursor=progress.cursor)
        ahead = digits(program, progress, stream)
        program.close()
        found[name] = {
            "numbers": numbers.tolist(),
            "state": shown(state),
            "extra": state.extra,
            "progress": begun,
            "mine": mine,
            "held": held,
        }
        others = ("zero1", "zero2", "fsdp2", "ddp") if name == "float32" else ("zero1",)
        for way in others:
            again = assemble(
                plan_of(way, **changes), StateSource(state), ranks=ranks, meta=state
            )
            here = Progress(begun.step, cursor=begun.cursor)
            numbers, weights = digits(again, here, stream)
            again.close()
            found[name][way] = {
                "same": torch.equal(numbers, ahead[0])
                and all((weights[n] == ahead[1][n]).all() for n in weights),
                "numbers": numbers.tolist(),
                "wanted": ahead[0].tolist(),
            }
    found["reduced"] = {
        (way, when): _sums_of_gradients(way, when, stream, ranks)
        for way in ("zero2", "fsdp2")
        for when in ("step", "micro_batch")
    }
    found["persistent"] = _small_whole(stream, ranks)
    for name, changes in WHOLE.items():
        found["persistent", name] = _whole_below(changes, stream, ranks)
    found["beside"] = {
        (way, where): _two_steps(way, stream, ranks, optimizer_states_in=where)
        for way in ("zero1", "fsdp2")
        for where in ("device", "host", "disk")
    }
    found["together"] = {
        (way, again): _memory_of_a_step(way, again, stream, ranks)
        for way in ("ddp", "zero1", "fsdp2")
        for again in ("none", "full")
    }
    found["optimizers"] = {
        name: [
            _two_steps(way, stream, ranks, optimizer=name) for way in ("zero1", "fsdp2")
        ]
        for name in known_optimizers()
        if chosen_optimizer(name).sharded and chosen_optimizer(name).trains("matrix", 2)
    }
    ranks.barrier()
    results.put((rank, found))
    ranks.disconnect()


def rows_of_looks(program, stream):
    """What looks at gradients and weights say of one more step of the first rows."""
    batches = stream.step(
        dict(stream.start),
        rank=program.mesh.data.rank,
        data_ranks=program.mesh.data.size,
        micro_batch_size=program.plan.micro_batch_size,
    )
    watch = Watch([look(program, batches) for look in LOOKED])
    train_step(program, batches, FIRST + THEN, watch=watch)
    found = {}
    for look in watch.looks:
        found |= look.row([] if look.values() is None else look.values().tolist())
    return found


def _small_whole(stream, ranks):
    """Three steps of stage 3 whose small parameters are whole on every rank."""
    below = {"stage3_param_persistence_threshold": 2000}
    changes = {"max_grad_norm": 0.5}
    plan = plan_of("fsdp2", **changes, **below)
    program = assemble(plan, ranks=ranks)
    numbers, progress = take_steps(program, stream, FIRST)
    state = capture(program, progress, everything=True)
    begun = Progress(progress.step, cursor=progress.cursor)
    ahead, weights = digits(program, progress, stream)
    looked = rows_of_looks(program, stream)
    sizes = {
        name: (one.numel(), hasattr(one, "placements"))
        for name, one in program.network.named_parameters()
    }
    held = program.held
    program.close()
    found = {
        "numbers": numbers.tolist(),
        "ahead": ahead.tolist(),
        "state": shown(state)[0],
        "sizes": sizes,
        "held": held,
        "looked": looked,
        "weights": weights,
    }
    for name, again in (("same", below), ("divided", {})):
        program = assemble(
            plan_of("fsdp2", **changes, **again),
            StateSource(state),
            ranks=ranks,
            meta=state,
        )
        here = Progress(begun.step, cursor=begun.cursor)
        numbers, weights = digits(program, here, stream)
        found[name] = numbers.tolist()
        program.close()
    return found


def _whole_below(changes, stream, ranks):
    """What steps say, and what a rank holds, where small parameters are whole."""
    plan = plan_of("fsdp2", max_grad_norm=0.5, **changes)
    program = assemble(plan, ranks=ranks)
    numbers, progress = take_steps(program, stream, FIRST)
    state = capture(program, progress, everything=True)
    parameters = list(program.network.parameters())
    found = {
        "numbers": numbers.tolist(),
        "state": shown(state)[0],
        "whole": [p.numel() for p in parameters if not hasattr(p, "placements")],
        "divided": [p.numel() for p in parameters if hasattr(p, "placements")],
        "held": program.held,
    }
    program.close()
    return found


def _two_steps(way, stream, ranks, **changes):
    """The losses and norms of two steps of one micro-batch."""
    program = assemble(plan_of(way, micro_batch_size=4, **changes), ranks=ranks)
    numbers, _ = take_steps(program, stream, 2)
    program.close()
    return numbers.tolist()


def _memory_of_a_step(way, again, stream, ranks):
    """Two steps in bfloat16: their numbers, what is held, and most bytes of a third."""
    program = assemble(plan_of(way, **BF16, gradient_checkpointing=again), ranks=ranks)
    numbers, progress = take_steps(program, stream, 2)
    held = held_bytes(program)
    with LiveBytes() as live:
        take_steps(program, stream, 1, progress)
    program.close()
    return {"numbers": numbers.tolist(), "held": held, "most": live.peak}


def _sums_of_gradients(way, when, stream, ranks):
    """Two steps, and the bytes of gradients before the last backward of each."""
    from torch.distributed.fsdp import FSDPModule

    program = assemble(plan_of(way, gradients_reduced=when), ranks=ranks)
    found, sync = [], program.way.sync

    def noted(last):
        if last:
            units = [m for m in program.network.modules() if isinstance(m, FSDPModule)]
            groups = [unit._get_fsdp_state()._fsdp_param_group for unit in units]
            divided = [one for group in groups for one in group.fsdp_params]
            # Float32 sums of narrower gradients, or those of float32 weights.
            sums = [one.unsharded_accumulated_grad for one in divided]
            whole = [getattr(one, "_unsharded_param", None) for one in divided]
            sums += [one.grad for one in whole if one is not None]
            parts = [one.sharded_param.grad for one in divided]
            local = [one.to_local() for one in parts if one is not None]
            found.append(sum(one.nbytes for one in (*sums, *local) if one is not None))
        return sync(last)

    program.way.sync = noted
    numbers, _ = take_steps(program, stream, 2)
    program.close()
    return numbers.tolist(), max(found)
