"""How often the interval of a predicted final loss holds it: made and real curves.

Each curve is shown to `lumina.train.health.outlook` up to a share of its steps, and
what is predicted of its end is compared with the mean loss of its last twentieth. Made
curves follow laws that the predictor has (a power of the step) and that it has not (two
powers, a logarithm, a stretched exponential), at an even rate and at a cosine, which
brings the loss down at its end. Real curves are the runs of `alarm_runs.py` without a
fault.

    python benchmarks/predictions.py [--runs FOLDER] [--count 24] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARES = (0.3, 0.5, 0.7, 0.9)
LAWS = ("power", "two powers", "logarithm", "stretched")


def made(seed: int) -> tuple[str, int, str, list[dict[str, Any]]]:
    """Law, steps, schedule and rows of a curve that is made."""
    from lumina.plan.schedule import learning_rate_at

    draw = random.Random(seed)
    law, steps = LAWS[seed % len(LAWS)], draw.choice((120, 300, 1000, 4000))
    schedule = draw.choice(("constant", "cosine"))
    plan = plan_of(steps, schedule)
    floor, fall = draw.uniform(0.5, 3), draw.uniform(2, 7)
    power, noise = draw.uniform(0.15, 0.7), draw.uniform(0.005, 0.05)
    gain = draw.uniform(0.0, 0.05)
    rows = []
    for step in range(1, steps + 1):
        curve = {
            "power": fall * step**-power,
            "two powers": fall * (0.5 * step**-power + 0.5 * step ** (-power / 3)),
            "logarithm": fall * max(1 - 0.1 * math.log(step), 0.02),
            "stretched": fall * math.exp(-((8 * step / steps) ** power)),
        }[law]
        rate = learning_rate_at(plan, step - 1) / plan.learning_rate
        loss = (floor + curve) * (1 + gain * (rate - 1))
        loss *= 1 + draw.gauss(0, noise)
        rows.append({"step": step, "loss": loss, "learning_rate": rate})
    return law, steps, schedule, rows


def plan_of(steps: int, schedule: str, warm_up: int | None = None) -> Any:
    """A plan of which only the schedule matters; the peak rate is 1."""
    from lumina.model.spec import ModelSpec
    from lumina.plan.plan import Plan

    spec = ModelSpec(
        vocab_size=64,
        padded_vocab_size=64,
        hidden_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=8,
        seq_length=8,
    )
    return Plan(
        spec=spec,
        steps=steps,
        learning_rate=1.0,
        min_lr=0.1 if schedule != "constant" else 1.0,
        lr_scheduler=schedule,
        warmup_steps=max(steps // 20, 3) if warm_up is None else warm_up,
        decay_steps=max(steps // 5, 1),
    )


def predictions(
    plan: Any, rows: list[dict[str, Any]]
) -> Iterator[tuple[float, float, Any]]:
    """(share of the steps, final loss, what was predicted of it)."""
    from lumina.train.health.outlook import Outlook

    steps = len(rows)
    losses = [row["loss"] for row in rows]
    final = statistics.mean(losses[-max(steps // 20, 5) :])
    marks = {int(share * steps): share for share in SHARES}
    outlook = Outlook(plan)
    for row in rows:
        outlook.see(row)
        if row["step"] in marks:
            yield marks[row["step"]], final, outlook.convergence()


def real(folder: Path, count: int) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Plan and rows of real runs."""
    from alarm_runs import clean_runs, rows_of

    for run in clean_runs(count):
        rows = rows_of(run, folder)
        peak = max(row["learning_rate"] for row in rows)
        shown = [row | {"learning_rate": row["learning_rate"] / peak} for row in rows]
        yield plan_of(len(rows), run.options["lr_scheduler"]), shown


def judged(kind: str, found: list[tuple[float, float, Any]]) -> dict[str, Any]:
    """Coverage, width and error of predictions, and how many there were."""
    there = [(final, one) for _, final, one in found if one.interval]
    if not there:
        return {"kind": kind, "cases": len(found), "predicted": 0}
    inside = [one.interval[0] <= final <= one.interval[1] for final, one in there]
    close = [abs(one.expected_final_loss / final - 1) <= 0.05 for final, one in there]
    return {
        "kind": kind,
        "cases": len(found),
        "predicted": len(there),
        "covered": round(statistics.mean(inside), 3),
        "median_half_width": round(
            statistics.median(
                (one.interval[1] - one.interval[0]) / 2 / final for final, one in there
            ),
            4,
        ),
        "median_error": round(
            statistics.median(
                abs(one.expected_final_loss / final - 1) for final, one in there
            ),
            4,
        ),
        "within_5_percent": round(statistics.mean(close), 3),
        "mean_confidence": round(statistics.mean(o.confidence for _, o in there), 3),
    }


def main() -> None:
    """Print a line for each kind of curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("/tmp/alarm-runs"))
    parser.add_argument("--count", type=int, default=24, help="real runs")
    parser.add_argument("--made", type=int, default=400, help="made curves")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found: dict[str, list[Any]] = defaultdict(list)
    for seed in range(given.made):
        law, steps, schedule, rows = made(seed)
        plan = plan_of(steps, schedule)
        for one in predictions(plan, rows):
            found[f"made, {law}, {schedule}"].append(one)
            found["made, all"].append(one)
    if given.count:
        given.runs.mkdir(parents=True, exist_ok=True)
        for plan, rows in real(given.runs, given.count):
            for one in predictions(plan, rows):
                found["real, all"].append(one)
                found[f"real, after {one[0]:.0%}"].append(one)
    lines = [judged(kind, found[kind]) for kind in sorted(found)]
    for line in lines:
        print(json.dumps(line))
    if given.output:
        given.output.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
