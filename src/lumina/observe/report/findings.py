"""What a run's own numbers say about it, and what to try, with figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina import quantities as q
from lumina.observe.report.metrics import Metrics


@dataclass(frozen=True)
class Finding:
    """An observation and the advice that follows from it."""

    observed: str
    advice: str


def find(metrics: Metrics, plan: Mapping[str, Any]) -> list[Finding]:
    """Findings from the figures and the Plan; empty when nothing stands out."""
    checks = (_overfitting, _still_falling, _skipped, _clipping, _waiting, _experts)
    found = [check(metrics, plan) for check in checks]
    return [finding for finding in found if finding is not None]


def _overfitting(metrics: Metrics, plan: Mapping[str, Any]) -> Finding | None:
    judged = metrics.column("eval_loss")
    if len(judged) < 3:
        return None
    at = int(judged.values.argmin())
    step, best = judged.steps[at], float(judged.values[at])
    last = float(judged.values[-1])
    if last < best * 1.01:
        return None
    return Finding(
        f"The held-out loss was best at step {step:,.0f} ({q.decimal(best)}) and "
        f"rose to {q.decimal(last)} by the end.",
        "Use the best checkpoint (--best); next time train shorter, on more text, or "
        "with a smaller model.",
    )


def _still_falling(metrics: Metrics, plan: Mapping[str, Any]) -> Finding | None:
    losses = metrics.values("eval_loss").tolist()
    if len(losses) < 4:
        return None
    before, last = losses[-2:]
    whole = losses[0] - last
    if whole <= 0 or before - last < 0.05 * whole:
        return None
    return Finding(
        f"The held-out loss still fell at the last evaluation, from "
        f"{q.decimal(before)} to {q.decimal(last)}.",
        "More steps would help: resume with a higher --steps.",
    )


def _skipped(metrics: Metrics, plan: Mapping[str, Any]) -> Finding | None:
    skipped = q.known(metrics.last.get("skipped")) or 0
    steps = q.known(metrics.last.get("step")) or 0
    if skipped <= 0.01 * steps:
        return None
    return Finding(
        f"{skipped:,.0f} of {steps:,.0f} steps had gradients that were not "
        "finite and were skipped.",
        "Lower --learning-rate or lengthen --warmup-steps; with fp16 prefer bf16.",
    )


def _clipping(metrics: Metrics, plan: Mapping[str, Any]) -> Finding | None:
    limit = q.known(plan.get("max_grad_norm"))
    column = metrics.column("grad_norm")
    half = (q.known(metrics.first.get("step")) or 0) + metrics.count // 2
    norms = column.values[column.steps >= half]
    if not limit or len(norms) < 20:
        return None
    share = float((norms > limit).mean())
    if share < 0.9:
        return None
    middle = float(np.sort(norms)[len(norms) // 2])
    return Finding(
        f"{q.share(share)} of the second half's steps had their gradient clipped at "
        f"{limit:g} (median norm {q.decimal(middle, 2)}).",
        "The clip acts as the learning rate: raise --max-grad-norm or lower "
        "--learning-rate.",
    )


def _waiting(metrics: Metrics, plan: Mapping[str, Any]) -> Finding | None:
    waited = float(metrics.values("data_wait_seconds").sum())
    spent = float(metrics.values("step_seconds").sum())
    if metrics.count < 20 or not spent or waited < 0.1 * spent:
        return None
    return Finding(
        f"{q.share(waited / spent)} of the time went into waiting for data.",
        "The reading of batches is the bottleneck: use a faster disk for the cache.",
    )


def _experts(metrics: Metrics, plan: Mapping[str, Any]) -> Finding | None:
    dead = metrics.column("moe.dead_experts")
    last = q.known(metrics.last.get("step")) or 0
    tail = dead.high[dead.steps > last - max(metrics.count // 10, 1)]
    worst = float(tail.max()) if len(tail) else 0.0
    if not worst:
        return None
    return Finding(
        f"In the last tenth of the run a layer left {worst:.0f} experts without any "
        "token in a step.",
        "Raise --load-balancing-weight or use --moe-bias-update-rate.",
    )
