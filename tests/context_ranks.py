"""Ranks that share the rows of a training, in processes of their own."""

from __future__ import annotations

from dataclasses import replace

import torch

from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from lumina.data.packed_stream import eval_batches
from lumina.data.store import TokenStore
from lumina.measure.held_out import held_out_loss
from lumina.ops.attention.block_kernels.table import BLOCK_KERNELS
from lumina.ops.attention.masks import document_starts
from lumina.ops.attention.ring import passes
from lumina.ops.attention.ring.link import carry_out
from lumina.ops.attention.ring.seen import seen_by
from lumina.ops.attention.ring.zigzag import Zigzag
from lumina.parallel.ring_link import RingLink
from lumina.parallel.sizes import Sizes
from programs import SEQ_LENGTH, joined, stream_of, take_steps, tiny_plan

RANKS, FIRST, THEN = 4, 2, 1
LENGTH, WINDOW = 37, 11
LATENT = {"mla_kv_rank": 16, "mla_rope_dim": 4, "mla_value_dim": 6, "num_kv_heads": 4}
SMOOTH = 1e-3
"""The optimizer's eps: a large one keeps rounding of gradients near zero small."""

SETTINGS = {
    "ddp": {
        "max_grad_norm": 0.5,
        "ema_decay": 0.9,
        "spec": {"window_size": 7, "attention_sinks": 2},
    },
    "zero1": {"parallel": "zero1", "max_grad_norm": 0.5, "spec": LATENT},
    "zero2": {
        "parallel": "zero2",
        "micro_batch_size": 2,
        "gradient_checkpointing": "full",
        "attention_head_groups": 2,
        "spec": {"pos_encodings": "learned", "seq_length": SEQ_LENGTH},
    },
    "fsdp2": {"parallel": "fsdp2", "max_grad_norm": 0.5, "moe": True},
}


def plan_of(setting, ranks=1, context=1):
    """The plan of a setting, of one process or of several."""
    changes = dict(SETTINGS[setting])
    parallel = changes.pop("parallel", "ddp") if ranks > 1 else "none"
    spec, moe = changes.pop("spec", {}), changes.pop("moe", False)
    rows = changes.pop("micro_batch_size", 8 * context // ranks)
    if ranks == 1:
        rows = 8
    changes.pop("parallel", None)
    plan = tiny_plan(
        moe,
        world_size=ranks,
        parallel=parallel,
        micro_batch_size=rows,
        attention="blockwise" if context > 1 else "sdpa",
        eps=SMOOTH,
        **changes,
    )
    accum = 8 * context // (rows * ranks)
    return plan.replace(
        spec=replace(plan.spec, **spec), context_parallel=context, grad_accum=accum
    )


def shown(state):
    """The tensors of a State as arrays, which pass between processes."""
    return {name: one.float().numpy() for name, one in state.tensors.items()}


def judged(program, store):
    """The held-out loss, its tokens and its accuracy, over all ranks."""
    data = program.mesh.data
    batches = eval_batches(
        store, SEQ_LENGTH, 2, limit=5, rank=data.rank, data_ranks=data.size
    )
    found = held_out_loss(
        program.model,
        map(program.row_parts.of, batches),
        device=program.device,
        mesh=program.mesh,
        meets=program.meets_in_forward,
    )
    return found.loss, found.tokens, found.accuracy


def given():
    """The whole rows of one test of the operation; the same on all ranks."""
    g = torch.Generator().manual_seed(3)
    shapes = ((4, 8), (2, 8), (2, 8), (4, 8))
    whole = [
        torch.randn(2, LENGTH, *s, dtype=torch.float64, generator=g) for s in shapes
    ]
    documents = torch.zeros(2, LENGTH, dtype=torch.int64)
    documents[0, 5:], documents[1, 30:] = 1, 1
    return whole, documents


def attended(mesh):
    """This rank's part of attention and of its gradients, over a real ring."""
    group = mesh.sequence
    zigzag, link = Zigzag(LENGTH, group.size), RingLink(group)
    whole, documents = given()
    q, k, v, grad = (zigzag.part(x, group.rank) for x in whole)
    starts = zigzag.part(document_starts(documents), group.rank)
    seen = seen_by(group.rank, zigzag, starts, 2, WINDOW, 0)
    kernel = BLOCK_KERNELS.found("cpu")
    ring = kernel, group.rank, zigzag, seen
    out, sums = carry_out(passes.forward(*ring, q, k, v), link)
    grads = carry_out(passes.backward(*ring, grad, q, k, v, out, sums), link)
    return [x.numpy() for x in (out, *grads)]


def shared_rows(rank, place, folder, results):
    """In a process of four: the operation, then trainings, whose rows ranks share."""
    ranks = joined(rank, RANKS, place)
    store = TokenStore.open(folder)
    stream = stream_of(store)
    found = {"attention": {}}
    for sizes in (Sizes(sequence=4), Sizes(data=2, sequence=2)):
        found["attention"][sizes.sequence] = attended(ranks.mesh(sizes))
    for setting in SETTINGS:
        program = assemble(plan_of(setting, RANKS, 2), ranks=ranks)
        numbers, progress = take_steps(program, stream, FIRST)
        state = capture(program, progress, everything=True)
        one = {"numbers": numbers.tolist(), "state": shown(state)}
        if setting == "ddp":
            one["judged"] = judged(program, store)
            one["extra"], one["progress"] = state.extra, progress
            one["optimizer"] = {
                slot: {name: x.float().numpy() for name, x in held.items()}
                for slot, held in state.optimizer.items()
            }
        program.close()
        if setting == "ddp":  # go on with all ranks in one ring
            again = assemble(
                plan_of(setting, RANKS, 4), StateSource(state), ranks=ranks, meta=state
            )
            begun = type(progress)(progress.step, cursor=progress.cursor)
            one["then"] = take_steps(again, stream, THEN, begun)[0].tolist()
            again.close()
        found[setting] = one
    ranks.barrier()
    results.put((rank, found))
    ranks.disconnect()
