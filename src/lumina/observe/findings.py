"""What a run's own numbers say about it, and what to try, with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina import quantities as q

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """An observation and the advice that follows from it."""

    observed: str
    advice: str


def find(rows: Sequence[Row], plan: Mapping[str, Any]) -> list[Finding]:
    """Findings from metrics rows and the Plan; empty when nothing stands out."""
    if not rows:
        return []
    checks = (_overfitting, _still_falling, _skipped, _clipping, _waiting, _experts)
    found = [check(rows, plan) for check in checks]
    return [finding for finding in found if finding is not None]


def _evaluations(rows: Sequence[Row]) -> list[tuple[int, float]]:
    pairs = ((row["step"], q.known(row.get("eval_loss"))) for row in rows)
    return [(step, loss) for step, loss in pairs if loss is not None]


def _overfitting(rows: Sequence[Row], plan: Mapping[str, Any]) -> Finding | None:
    evaluated = _evaluations(rows)
    if len(evaluated) < 3:
        return None
    step, best = min(evaluated, key=lambda pair: pair[1])
    last = evaluated[-1][1]
    if last < best * 1.01:
        return None
    return Finding(
        f"The held-out loss was best at step {step:,} ({q.decimal(best)}) and rose to "
        f"{q.decimal(last)} by the end.",
        "Use the best checkpoint (--best); next time train shorter, on more text, or "
        "with a smaller model.",
    )


def _still_falling(rows: Sequence[Row], plan: Mapping[str, Any]) -> Finding | None:
    evaluated = _evaluations(rows)
    if len(evaluated) < 4:
        return None
    (_, before), (_, last) = evaluated[-2], evaluated[-1]
    whole = evaluated[0][1] - last
    if whole <= 0 or before - last < 0.05 * whole:
        return None
    return Finding(
        f"The held-out loss still fell at the last evaluation, from "
        f"{q.decimal(before)} to {q.decimal(last)}.",
        "More steps would help: resume with a higher --steps.",
    )


def _skipped(rows: Sequence[Row], plan: Mapping[str, Any]) -> Finding | None:
    skipped = q.known(rows[-1].get("skipped")) or 0
    if skipped <= 0.01 * rows[-1]["step"]:
        return None
    return Finding(
        f"{skipped:,.0f} of {rows[-1]['step']:,} steps had gradients that were not "
        "finite and were skipped.",
        "Lower --learning-rate or lengthen --warmup-steps; with fp16 prefer bf16.",
    )


def _clipping(rows: Sequence[Row], plan: Mapping[str, Any]) -> Finding | None:
    limit = q.known(plan.get("max_grad_norm"))
    tail = [q.known(row.get("grad_norm")) for row in rows[len(rows) // 2 :]]
    norms = [norm for norm in tail if norm is not None]
    if not limit or len(norms) < 20:
        return None
    share = sum(norm > limit for norm in norms) / len(norms)
    if share < 0.9:
        return None
    return Finding(
        f"{q.share(share)} of the second half's steps had their gradient clipped at "
        f"{limit:g} (median norm {q.decimal(sorted(norms)[len(norms) // 2], 2)}).",
        "The clip acts as the learning rate: raise --max-grad-norm or lower "
        "--learning-rate.",
    )


def _waiting(rows: Sequence[Row], plan: Mapping[str, Any]) -> Finding | None:
    waits = [q.known(row.get("data_wait_seconds")) for row in rows]
    steps = [q.known(row.get("step_seconds")) for row in rows]
    waited = sum(wait for wait in waits if wait is not None)
    spent = sum(step for step in steps if step is not None)
    if len(rows) < 20 or not spent or waited < 0.1 * spent:
        return None
    return Finding(
        f"{q.share(waited / spent)} of the time went into waiting for data.",
        "The reading of batches is the bottleneck: use a faster disk for the cache.",
    )


def _experts(rows: Sequence[Row], plan: Mapping[str, Any]) -> Finding | None:
    tail = rows[-max(len(rows) // 10, 1) :]
    worst = 0.0
    for row in tail:
        dead = row.get("moe.dead_experts")
        if isinstance(dead, Sequence) and dead:
            worst = max(worst, max(q.known(n) or 0 for n in dead))
    if not worst:
        return None
    return Finding(
        f"In the last tenth of the run a layer left {worst:.0f} experts without any "
        "token in a step.",
        "Raise --load-balancing-weight or use --moe-bias-update-rate.",
    )
