"""Held-out loss after equal training operations."""

from __future__ import annotations

import time
from typing import Any

from measuring import decode, make_program, step_batches
from shapes import SEQUENCE

RATE, ROWS = 1e-3, 8


def learn(
    spec: Any, flops_per_token: float, budget: float, seed: int, data: Any
) -> Any:
    """Train from scratch for `budget` operations, then measure the held-out loss.

    Args:
        spec: a ModelSpec.
        flops_per_token: executed in training.
        budget: operations to spend; decides the number of steps.
        seed: of initial weights and of the order of rows.
        data: "train" and "held_out", [N, S + 1] tokens each.
    """
    import numpy as np
    import torch

    from lumina.model.network import build_network
    from lumina.train.step import train_step

    steps = round(budget / (flops_per_token * ROWS * SEQUENCE))
    program = make_program(spec, ROWS, steps, seed, RATE)
    generator = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    curve = []
    start = time.perf_counter()
    for step in range(steps):
        if len(order) < ROWS:
            order = np.append(order, generator.permutation(len(data["train"])))
        chosen, order = order[:ROWS], order[ROWS:]
        values = train_step(program, step_batches(data["train"][chosen]), step)
        if step % 20 == 0 or step == steps - 1:
            curve.append((step, values[0].item()))
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    loss = held_out(program.model, data["held_out"])
    network = build_network(spec, device="cuda", seed=None).to(torch.bfloat16)
    network.load_state_dict(program.network.state_dict())
    network.backbone.compute_dtype = torch.bfloat16
    program.close()
    return {
        "seed": seed,
        "steps": steps,
        "held_out_loss": loss,
        "seconds": seconds,
        "curve": curve,
        "decode_tokens_per_second": decode(network.eval()),
    }


def held_out(model: Any, rows: Any) -> float:
    """Mean cross entropy over whole batches of held-out rows, in evaluation mode."""
    import torch

    from lumina.evaluate.held_out import held_out_loss

    whole = len(rows) // ROWS * ROWS
    batches = [
        step_batches(rows[i : i + ROWS]).micro_batches[0] for i in range(0, whole, ROWS)
    ]
    return held_out_loss(model, batches, device=torch.device("cuda")).loss
