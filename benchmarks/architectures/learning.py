"""Held-out loss after equal training operations."""

from __future__ import annotations

import statistics
import time
from typing import Any

from measuring import decode, make_program, step_batches

RATE, ROWS = 1e-3, 8


def learn(spec: Any, steps: int, seed: int, data: Any) -> dict[str, Any]:
    """Train from scratch, then measure the held-out loss.

    Args:
        spec: a ModelSpec.
        steps: of `ROWS` rows.
        seed: of initial weights and of the order of rows.
        data: "train" and "held_out", [N, S + 1] tokens each.
    """
    start = time.perf_counter()
    program, curve = trained(spec, steps, seed, data)
    seconds = time.perf_counter() - start
    loss = held_out(program.model, data["held_out"])
    program.close()
    return {
        "seed": seed,
        "steps": steps,
        "held_out_loss": loss,
        "seconds": seconds,
        "curve": curve,
    }


def decoding(spec: Any, steps: int, data: Any, times: int = 3) -> dict[str, Any]:
    """Tokens a second of a model trained so long, since routers learn where to send.

    Args:
        spec: a ModelSpec.
        steps: of `ROWS` rows.
        data: as in `learn`.
        times: to decode after a first answer; the median counts.
    """
    import torch

    from lumina.model.build import build_network

    program, _ = trained(spec, steps, 0, data)
    network = build_network(spec, device="cuda", seed=None).to(torch.bfloat16)
    network.load_state_dict(program.network.state_dict())
    network.backbone.compute_dtype = torch.bfloat16
    program.close()
    prompts = data["held_out"][:8, :128].astype("int64").tolist()
    rates = [decode(network.eval(), prompts) for _ in range(times + 1)]
    return {
        "steps": steps,
        "tokens_per_second": statistics.median(rates[1:]),
        "tokens_per_second_all": rates,
    }


def trained(spec: Any, steps: int, seed: int, data: Any) -> tuple[Any, Any]:
    """The program after its steps, and its loss every 20."""
    import numpy as np
    import torch

    from lumina.train.step import train_step

    program = make_program(spec, ROWS, steps, seed, RATE)
    generator = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    curve = []
    for step in range(steps):
        if len(order) < ROWS:
            order = np.append(order, generator.permutation(len(data["train"])))
        chosen, order = order[:ROWS], order[ROWS:]
        values = train_step(program, step_batches(data["train"][chosen]), step)
        if step % 20 == 0 or step == steps - 1:
            curve.append((step, values[0].item()))
    torch.cuda.synchronize()
    return program, curve


def held_out(model: Any, rows: Any) -> float:
    """Mean cross entropy over whole batches of held-out rows, in evaluation mode."""
    import torch

    from lumina.measure.held_out import held_out_loss

    whole = len(rows) // ROWS * ROWS
    batches = [
        step_batches(rows[i : i + ROWS]).micro_batches[0] for i in range(0, whole, ROWS)
    ]
    return held_out_loss(model, batches, device=torch.device("cuda")).loss
