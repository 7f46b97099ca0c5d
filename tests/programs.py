"""Programs on a handful of conversations: steps without a run around them."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.ranks import Ranks
from lumina.assemble.source import StateSource
from lumina.config import ConfigPresets
from lumina.data.packed_stream import BatchStream
from lumina.data.prepare import prepare
from lumina.data.store import TokenStore
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.plan.plan import Plan
from lumina.state.state import State
from lumina.train.step import train_step

SEQ_LENGTH = 48


@cache
def conversations(folder: Path):
    """A token store of chats whose answers, and so losses, differ in length."""
    file = folder / "chats.jsonl"
    records = [
        {
            "messages": [
                {"role": "user", "content": f"How many hens has farm {n}?"},
                {"role": "assistant", "content": "hen, " * (n % 7) + f"so {n % 7}."},
            ]
        }
        for n in range(120)
    ]
    file.write_text("\n".join(map(json.dumps, records)) + "\n")
    config = ConfigPresets.debug().replace(
        train_data=(str(file),), tokenizer_vocab_size=300, eval_fraction=0.0
    )
    return prepare(config).train


def stream_of(store, global_batch_size=8, seed=3):
    return BatchStream(
        store, seq_length=SEQ_LENGTH, global_batch_size=global_batch_size, seed=seed
    )


def tiny_plan(moe: bool = False, **changes) -> Plan:
    """Two narrow blocks, eight rows a step in one forward, no clipping."""
    routed = MoeSpec(num_experts=4, top_k=2, intermediate_size=16, layers=(0, 1))
    spec = ModelSpec(
        vocab_size=310,
        padded_vocab_size=320,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        seq_length=SEQ_LENGTH,
        init_std=0.1,
        moe=routed if moe else None,
    )
    values = {
        "spec": spec,
        "micro_batch_size": 8,
        "grad_accum": 1,
        "global_batch_size": 8,
        "steps": 20,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "min_lr": 3e-4,
        "max_grad_norm": 0.0,
        "seed": 5,
    }
    values |= changes
    values["grad_accum"] = values["global_batch_size"] // (
        values["micro_batch_size"] * values.get("world_size", 1)
    )
    return Plan(**values)


def take_steps(program, stream, count, progress=None):
    """Train; the loss and gradient norm of each step, and where it got to."""
    progress = progress or Progress(cursor=dict(stream.start))
    numbers = []
    for _ in range(count):
        batches = stream.step(
            progress.cursor,
            rank=program.mesh.data.rank,
            data_ranks=program.mesh.data.size,
            micro_batch_size=program.plan.micro_batch_size,
        )
        metrics = train_step(program, batches, progress.step)
        numbers.append(metrics[:2].tolist())
        progress.step += 1
        progress.cursor = batches.cursor
    return torch.tensor(numbers), progress


def told_state(tensors, moments, extra, step) -> State:
    """The State that a rank reported as arrays of numpy, which cross processes."""
    return State(
        tensors={n: torch.from_numpy(t) for n, t in tensors.items()},
        optimizer={
            slot: {n: torch.from_numpy(t) for n, t in held.items()}
            for slot, held in moments.items()
        },
        extra=extra,
        counters={"step": step},
    )


def reassembled(program, progress, plan):
    """Capture, close, and assemble as another Plan says."""
    state = capture(program, progress, everything=True)
    program.close()
    return assemble(plan, StateSource(state), meta=state)


def joined(rank, count, place):
    """In a process of several: this one's place among them, connected by gloo."""
    os.environ |= place | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
    }
    torch.set_num_threads(1)
    ranks = Ranks.from_environment()
    ranks.connect("cpu")
    return ranks


def one_rank(rank, place, store_folder, moe, parallel, results):
    """In a process of two: train, capture, assemble, train; put what came of it."""
    ranks = joined(rank, 2, place)
    stream = stream_of(TokenStore.open(store_folder))
    plan = tiny_plan(
        moe, world_size=2, parallel=parallel, micro_batch_size=2, ema_decay=0.9
    )
    program = assemble(plan, ranks=ranks)
    first, progress = take_steps(program, stream, 5)
    # A round trip through a State on both ranks, then some more steps.
    state = capture(program, progress, everything=True)
    program.close()
    program = assemble(
        plan.replace(gradient_checkpointing="full"),
        StateSource(state),
        ranks=ranks,
        meta=state,
    )
    then, progress = take_steps(program, stream, 3, progress)
    state = capture(program, progress, everything=True)
    share = capture(program, progress)
    names = sorted(share.tensors)
    results.put((rank, torch.cat([first, then]).tolist(), names))
    if rank == 0:
        tensors = {n: t.numpy() for n, t in state.tensors.items()}
        moments = {
            s: {n: t.numpy() for n, t in held.items()}
            for s, held in state.optimizer.items()
        }
        results.put(("state", tensors, moments, state.extra, progress))
    ranks.barrier()
    ranks.disconnect()


def controlled_rank(rank, place, config, results):
    """In a process of two: a run whose rank 0 asks for changes; put the journal."""
    os.environ |= place | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    from lumina import Trainer

    def on_step(trainer, row):
        if rank == 0 and row["step"] == 2:
            trainer.adjust_learning_rate(1e-3)
        if rank == 0 and row["step"] == 3:
            trainer.adjust_batch_size(1)

    trainer = Trainer(config, on_step=on_step)
    trainer.train()
    results.put((rank, trainer.controls.journal()))


def expert_rank(rank, place, config, results):
    """In a process of two: a run whose rank 0 adds an expert and prunes another."""
    os.environ |= place | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    from lumina import Trainer

    def on_step(trainer, row):
        if rank == 0 and row["step"] == 2:
            trainer.add_expert()
        if rank == 0 and row["step"] == 5:
            trainer.prune_expert(1, 0)

    trainer = Trainer(config, on_step=on_step)
    trainer.train()
    results.put((rank, [(c.name, c.outcome) for c in trainer.controls.changes]))
