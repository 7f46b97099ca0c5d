"""Two ranks of a run whose gradients are exchanged as products of narrow matrices."""

from __future__ import annotations

from dataclasses import replace

import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.data.store import TokenStore
from lumina.train.profiling.communication import Watched
from programs import joined, stream_of, take_steps, tiny_plan

RANK, START, STEPS = 4, 1, 4
"""Columns of the factors; the first step that has them; all steps."""


def plan_of(moe=False, **changes):
    """Two micro-batches a step on each of two ranks, compressed from the second on."""
    values = {
        "micro_batch_size": 2,
        "parallel": "ddp",
        "world_size": 2,
        "gradient_compression": "powersgd",
        "gradient_compression_rank": RANK,
        "gradient_compression_start": START,
        "max_grad_norm": 0.5,
    }
    return tiny_plan(moe, **(values | changes))


def noted(program):
    """What each exchange was given and gave, and the errors after it, step by step."""
    low_rank, found = program.way.low_rank, []
    exchange = low_rank.exchange

    def seen():
        before = gradients(program)
        exchange()
        errors = {one.name: one.error.clone() for one in low_rank.apart}
        found.append((before, gradients(program), errors))

    low_rank.exchange = seen
    return found


def gradients(program):
    """Copies of all gradients, by name."""
    return {
        name: one.grad.clone()
        for name, one in program.network.named_parameters()
        if one.grad is not None
    }


def arrays(tensors):
    """As arrays, which pass between processes."""
    return {name: one.float().numpy() for name, one in tensors.items()}


def compressed_rank(rank, place, folder, results):
    """Train, save in the middle, and go on from there in a second program."""
    ranks = joined(rank, 2, place)
    stream = stream_of(TokenStore.open(folder))
    program = assemble(plan_of(), ranks=ranks)
    seen, sizes = noted(program), []
    progress = None
    for _ in range(2):
        with Watched() as watch:
            _, progress = take_steps(program, stream, 1, progress)
        sizes.append(sum(c.bytes for c in watch.calls if c.kind == "allreduce"))
    state = capture(program, progress, everything=True)
    part = capture(program, progress)
    begun = Progress(progress.step, cursor=progress.cursor)
    numbers, after = take_steps(program, stream, STEPS - 2, progress)
    there = capture(program, after, everything=True)
    shapes = {one.name: one.shape for one in program.way.low_rank.apart}
    program.close()
    again = assemble(plan_of(), StateSource(state), ranks=ranks, meta=state)
    same, last = take_steps(again, stream, STEPS - 2, begun)
    here = capture(again, last, everything=True)
    again.close()
    found = {
        "steps": [tuple(map(arrays, one)) for one in seen],
        "shapes": shapes,
        "sizes": sizes,
        "norms": numbers[:, 1].tolist(),
        "same": torch.equal(numbers, same)
        and _equal(there.tensors, here.tensors)
        and there.optimizer.keys() == here.optimizer.keys()
        and all(
            _equal(held, here.optimizer[slot]) for slot, held in there.optimizer.items()
        ),
        "slots": sorted(part.optimizer),
        "weights": arrays(there.tensors),
        "other": _of_three(state, ranks, rank),
    }
    for name, changes in (
        ("bf16", {"compute_dtype": "bfloat16"}),
        ("routed", {"moe": True, "gradient_compression_start": 0}),
    ):
        program = assemble(plan_of(**changes), ranks=ranks)
        seen = noted(program)
        take_steps(program, stream, 2)
        found[name] = [tuple(map(arrays, one)) for one in seen]
        program.close()
    ranks.barrier()
    results.put((rank, found))
    ranks.disconnect()


def _of_three(state, ranks, rank):
    """Go on from a State of three ranks: whether errors are their mean."""
    own = state.optimizer[f"gradient_error_{rank}"]
    three = {f"gradient_error_{i}": {} for i in range(3)}
    for name, error in own.items():
        for i in range(3):
            three[f"gradient_error_{i}"][name] = error * (i + 1)
    changed = replace(
        state,
        optimizer={**state.optimizer, **three},
        extra={**state.extra, "gradient_errors": 3},
    )
    program = assemble(plan_of(), StateSource(changed), ranks=ranks, meta=changed)
    here = capture(program, Progress(), everything=True)
    program.close()
    held = here.optimizer[f"gradient_error_{rank}"]
    return held.keys() == own.keys() and all(
        torch.allclose(held[name], 2 * own[name], rtol=1e-5, atol=1e-9) for name in own
    )


def _equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one
    )
