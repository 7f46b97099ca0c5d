"""Whether the training as planned learns as its float32 reference does.

Both begin with the same weights and see the same rows. Their difference after some
steps is held against how much the reference differs from seed to seed: a difference
within that band is one that another seed would have made, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from lumina.assemble.assemble import assemble
from lumina.ending import closed_after
from lumina.plan.plan import Plan
from lumina.train.bench.rows import as_batches, check_text, patterned_rows
from lumina.train.bench.timing import mean_interval
from lumina.train.prove.sessions import free
from lumina.train.step import train_step

SPELLED_OUT = 1024
"""Rows up to this length have attention spelled out in the reference. For longer ones
its scores would not fit, and PyTorch's own attention in float32 takes its place."""

DISTINCT = 16
"""Steps with rows of their own."""


def reference_of(plan: Plan) -> Plan:
    """The same training in float32, uncompiled, without fast versions."""
    spelled = plan.spec.seq_length <= SPELLED_OUT
    return plan.replace(
        compute_dtype="float32",
        tf32=False,
        fp8="",
        compile=False,
        attention="reference" if spelled else "sdpa",
        gradient_checkpointing="full" if plan.device == "cuda" else "none",
        block_checkpointing=(),
        activation_bits=0,
        feedforward_tile=0,
    )


def compare_losses(
    plan: Plan,
    *,
    steps: int,
    seeds: int,
    tell: Callable[[str], None],
    stopped: Callable[[], bool],
) -> dict[str, Any] | None:
    """Train both ways with each seed; None where it was interrupted.

    Args:
        plan: of the training.
        steps: of each run.
        seeds: how many, two at least.
        tell: shows a line of progress.
        stopped: asked between steps.

    Returns:
        Plain values: each seed's losses at the end and along the way, the mean
        difference with its 95% interval, the reference's standard deviation over seeds
        (`band`) and whether the mean difference is `inside` it.
    """
    check_text(plan)
    plan = plan.replace(steps=max(plan.steps, steps))
    slow = reference_of(plan)
    counted = max(1, steps // 4)
    rows: list[dict[str, Any]] = []
    for number in range(seeds):
        seed = plan.seed + number
        curves = []
        for name, one in (("reference", slow), ("as planned", plan)):
            tell(f"losses: seed {seed}, {name}")
            curve = _losses(one.replace(seed=seed), steps, stopped)
            if curve is None:
                return None
            curves.append(curve)
        ends = [statistics.fmean(curve[-counted:]) for curve in curves]
        rows.append(
            {
                "seed": seed,
                "reference": ends[0],
                "fast": ends[1],
                "reference_losses": curves[0],
                "fast_losses": curves[1],
            }
        )
    return verdict(rows) | {
        "seeds": rows,
        "steps": steps,
        "counted": counted,
        "planned": _words(plan),
        "reference_is": _words(slow),
    }


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean difference beside the reference's spread over seeds."""
    differences = [one["fast"] - one["reference"] for one in rows]
    band = statistics.stdev(one["reference"] for one in rows)
    middle = statistics.fmean(differences)
    return {
        "difference": middle,
        "interval": list(mean_interval(differences)),
        "band": band,
        "inside": abs(middle) <= band,
    }


def _words(plan: Plan) -> str:
    parts = [plan.compute_dtype, f"attention {plan.attention}"]
    parts += ["compiled" if plan.compile else "not compiled"]
    parts += [f"fp8 {plan.fp8}"] if plan.fp8 else []
    return ", ".join(parts)


def _losses(plan: Plan, steps: int, stopped: Callable[[], bool]) -> list[float] | None:
    """The losses of the steps of a training that begins with the seed's weights."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
    program = assemble(plan)
    program.model.train()
    found = []
    try:
        with closed_after(program.close):
            for step, rows in enumerate(_rows(plan, steps)):
                if stopped():
                    return None
                batches = as_batches(plan, rows, plan.device)
                found.append(train_step(program, batches, step)[0].detach().clone())
            return [float(loss) for loss in found]
    finally:
        torch.set_float32_matmul_precision(before)
        del program
        free()


def _rows(plan: Plan, steps: int) -> list[torch.Tensor]:
    """The rows [B, S + 1] of each step."""
    made = patterned_rows(plan, plan.seed, min(steps, DISTINCT))
    return [made[step % len(made)] for step in range(steps)]
