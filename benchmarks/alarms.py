"""False alarms in clean runs, and which faults are found: the detectors, measured.

Small real runs on a CPU (`alarm_runs.py`, their seeds are its own) are shown row by row
to all detectors:

* clean runs, over kinds of model, lengths, batches, rates, schedules and data: every
  alarm is a false one, but for `convergence`, which is a remark, and for what depends
  on the machine (`performance`, `data_wait`), which is counted apart, as other work on
  the machine does slow a run down;
* runs with a fault that is really made: a rate of 100 times and of a hundredth of the
  usual, one that jumps, weights that are damaged, a text that is far too short;
* clean runs with a fault written into their rows, one of each kind into every run that
  is long enough.

    python benchmarks/alarms.py [--runs FOLDER] [--first SEED] [--clean 36]
        [--faulted 4] [--output FILE]

What the orchestrator would change in the clean runs, in shadow mode with its defaults,
is counted, too: an intervention is a decision that names a control.

"Sure" counts alarms with a confidence of 0.6 and more, which is what the mildest action
of the orchestrator needs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from alarm_runs import KINDS, Run, clean_runs, faulted_runs, rows_of

SURE = 0.6
OF_THE_MACHINE = ("performance", "data_wait")
REMARKS = ("convergence",)
WITHIN = 60
"""Steps from a fault to the alarm, or a third of the run where that is less."""

Rows = list[dict[str, Any]]


def plan_of(run: Run, rows: Rows) -> Any:
    """What the detectors need of the plan of a run."""
    from lumina.model.spec import ModelSpec, ModSpec, MoeSpec
    from lumina.plan.plan import Plan

    kind = KINDS["experts"] if "moe.load" in rows[0] else {}
    moe = (
        MoeSpec(
            num_experts=kind["num_experts"],
            top_k=kind["moe_top_k"],
            intermediate_size=96,
            layers=(0, 1),
        )
        if kind
        else None
    )
    spec = ModelSpec(
        vocab_size=400,
        padded_vocab_size=448,
        hidden_size=48,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        head_dim=24,
        intermediate_size=96,
        seq_length=64,
        moe=moe,
    )
    if "mod.selected_ratio" in rows[0]:
        spec = replace(spec, mod=ModSpec(layers=(0, 1)))
    return Plan(
        spec=spec,
        steps=len(rows),
        warmup_steps=run.options.get("warmup_steps", max(len(rows) // 20, 3)),
        learning_rate=max(row["learning_rate"] for row in rows),
        lr_scheduler=run.options.get("lr_scheduler", "cosine"),
        eval_every=max(len(rows) // 6, 10),
        max_grad_norm=run.options.get("max_grad_norm", 1.0),
        parameters=100_000,
    )


def watched(run: Run, rows: Rows) -> list[Any]:
    """Every finding in the rows of a run."""
    from lumina.train.health.watching import Watching

    watching, found = Watching.of(plan_of(run, rows)), []
    for row in rows:
        judged = {key: x for key, x in row.items() if "eval_" in key}
        found += watching.see({k: x for k, x in row.items() if k not in judged})
        if judged:
            found += watching.see_evaluation(row["step"], judged)
    return found


def interventions(run: Run, rows: Rows) -> list[str]:
    """What the orchestrator would change, in shadow mode."""
    from lumina.config import Config
    from lumina.plan.decisions import Decisions
    from lumina.plan.orchestrating import decide_orchestrator
    from lumina.train.replaying.stand_in import StandIn
    from lumina.train.rules.orchestrator import Orchestrator

    decided = Decisions(values={"steps": len(rows)})
    decide_orchestrator(Config(adaptive="shadow"), decided)
    plan = plan_of(run, rows).replace(orchestrator=decided.values["orchestrator"])
    rule, stand_in, found = Orchestrator.made_for(plan), StandIn(plan), []
    for row in rows:
        step = row["step"]

        def now(name: str, step: int = step) -> Any:
            return stand_in.now(name, step)

        judged = {key: x for key, x in row.items() if "eval_" in key}
        rule.see({k: x for k, x in row.items() if k not in judged})
        rule.propose(step, now)
        if judged:
            rule.see_evaluation(step, judged)
            rule.propose(step, now)
        found += [
            f"{note.evidence['anomaly']}: {note.evidence['action']}"
            for note in rule.notes()
            if note.kind == "decision" and note.evidence["control"]
        ]
    return found


def one_spike(rows: Rows, at: int, draw: random.Random) -> None:
    rows[at]["loss"] *= draw.uniform(2, 4)


def lasting_spike(rows: Rows, at: int, draw: random.Random) -> None:
    for past, row in enumerate(rows[at : at + 20]):
        row["loss"] *= 1 + draw.uniform(0.6, 1.2) * (1 - past / 20)


def diverging(rows: Rows, at: int, draw: random.Random) -> None:
    pace = draw.uniform(0.01, 0.04)
    for past, row in enumerate(rows[at:]):
        row["loss"] *= 1 + pace * past


def not_finite(rows: Rows, at: int, draw: random.Random) -> None:
    before = rows[at]["skipped"]
    for past, row in enumerate(rows[at:], 1):
        row["skipped"] = before + min(past, 5)
        if past <= 5:
            row |= {"loss": None, "grad_norm": None}


def exploding(rows: Rows, at: int, draw: random.Random) -> None:
    for row in rows[at : at + 6]:
        row["grad_norm"] *= draw.uniform(20, 1000)


def vanishing(rows: Rows, at: int, draw: random.Random) -> None:
    for row in rows[at:]:
        row |= {"grad_norm": row["grad_norm"] * 1e-5, "loss": rows[0]["loss"]}


def swinging(rows: Rows, at: int, draw: random.Random) -> None:
    size = draw.uniform(0.15, 0.3)
    length = draw.choice((2, 8, 12))
    for past, row in enumerate(rows[at:]):
        row["loss"] *= 1 + size * math.cos(2 * math.pi * past / length)


def level(rows: Rows, at: int, draw: random.Random) -> None:
    height = statistics.median(row["loss"] for row in rows[at - 10 : at])
    for row in rows[at:]:
        row |= {"loss": height * (1 + draw.gauss(0, 0.01))}
        row["learning_rate"] = rows[at]["learning_rate"]


def repeating(rows: Rows, at: int, draw: random.Random) -> None:
    for row in rows[at : at + 4]:
        row["loss"] *= draw.uniform(0.1, 0.4)


def uneven(rows: Rows, at: int, draw: random.Random) -> None:
    for row in rows[at:]:
        count = len(row["moe.load"][0])
        row["moe.load"][0] = [0.8] + [0.2 / (count - 2)] * (count - 2) + [0.0]


def forgotten(rows: Rows, at: int, draw: random.Random) -> None:
    for row in rows[at:]:
        row["token_accuracy"] *= 0.5


def leaking(rows: Rows, at: int, draw: random.Random) -> None:
    for past, row in enumerate(rows):
        row["agreed_memory_share"] = 0.3 + 0.9 * past / len(rows)


def full(rows: Rows, at: int, draw: random.Random) -> None:
    for row in rows[at:]:
        row["agreed_memory_share"] = 0.985


def slower(rows: Rows, at: int, draw: random.Random) -> None:
    for row in rows[at:]:
        row["agreed_step_seconds"] = (row["agreed_step_seconds"] or 0.1) * 4


def resumed(rows: Rows, at: int, draw: random.Random) -> None:
    rows[at]["agreed_step_seconds"] = None
    for row in rows[at:]:
        row["loss"] *= 1.4


Fault = Callable[[Rows, int, random.Random], None]
FAULTS: dict[Fault, tuple[str, ...]] = {
    one_spike: ("loss_spike",),
    lasting_spike: ("loss_spike", "severe_loss_spike"),
    diverging: ("divergence",),
    not_finite: ("nonfinite",),
    exploding: ("exploding_gradients",),
    vanishing: ("vanishing_gradients",),
    swinging: ("oscillation",),
    level: ("plateau", "convergence"),
    repeating: ("repeated_data",),
    uneven: ("expert_imbalance", "dead_experts"),
    forgotten: ("forgetting",),
    leaking: ("memory_leak", "memory_pressure"),
    full: ("memory_pressure",),
    slower: ("performance",),
    resumed: ("resume_discontinuity",),
}
"""What is written into rows, and the detectors any of which is right about it."""

SLOW = (swinging, level, uneven, slower, leaking, vanishing)
"""Faults that only a stretch of the run can show."""


def false_alarms(runs: list[tuple[Run, Rows]]) -> dict[str, Any]:
    """Alarms in clean runs, by 1,000 steps."""
    steps, counts, sure, at_fault = 0, Counter[str](), Counter[str](), Counter[str]()
    touched: set[str] = set()
    changed: dict[str, list[str]] = {}
    for run, rows in runs:
        steps += len(rows)
        if done := interventions(run, rows):
            changed[run.name] = done
        for one in watched(run, rows):
            if not one.new or one.anomaly in REMARKS:
                continue
            counts[one.anomaly] += 1
            sure[one.anomaly] += one.confidence >= SURE
            if one.anomaly not in OF_THE_MACHINE:
                at_fault[one.anomaly] += 1
                touched.add(run.name)
    rate = 1000 * sum(at_fault.values()) / steps
    surely = sum(n for name, n in sure.items() if name not in OF_THE_MACHINE)
    return {
        "runs": len(runs),
        "steps": steps,
        "false_alarms_per_1000_steps": round(rate, 3),
        "sure_ones_per_1000_steps": round(1000 * surely / steps, 3),
        "runs_with_one": len(touched),
        "by_detector": dict(counts),
        "sure_by_detector": dict(sure),
        "in": sorted(touched),
        "runs_with_an_intervention": len(changed),
        "interventions": changed,
    }


def found_in(run: Run, rows: Rows, wanted: tuple[str, ...], begin: int) -> Any:
    """The first right finding from `begin` on; None: there is none."""
    right = (o for o in watched(run, rows) if o.anomaly in wanted and o.step >= begin)
    return next(right, None)


def recall_in_rows(runs: list[tuple[Run, Rows]]) -> dict[str, Any]:
    """How many of the faults that are written into rows are found, and when."""
    found: dict[str, list[Any]] = defaultdict(list)
    for fault, wanted in FAULTS.items():
        for run, rows in runs:
            if fault is uneven and "moe.load" not in rows[0]:
                continue
            at = len(rows) // 2
            changed = json.loads(json.dumps(rows))
            fault(changed, at, random.Random(run.options["seed"]))
            first = found_in(run, changed, wanted, 1 if fault is leaking else at + 1)
            latest = len(rows) if fault in SLOW else at + min(WITHIN, len(rows) // 3)
            there = first is not None and first.step <= latest
            found[fault.__name__].append(first.step - at - 1 if there else None)
    return {name: summary(delays) for name, delays in found.items()}


def recall_in_runs(runs: list[tuple[Run, Rows]]) -> dict[str, Any]:
    """How many of the faults that are really made are found, and when."""
    found: dict[str, list[Any]] = defaultdict(list)
    for run, rows in runs:
        first = found_in(run, rows, run.wanted, run.begin)
        kind = run.name.rpartition("-")[0]
        found[kind].append(None if first is None else first.step - run.begin)
    return {name: summary(delays) for name, delays in found.items()}


def summary(delays: list[Any]) -> dict[str, Any]:
    """Found of all, and the median delay in steps."""
    there = [delay for delay in delays if delay is not None]
    return {
        "found": len(there),
        "of": len(delays),
        "median_delay": statistics.median(there) if there else None,
    }


def main() -> None:
    """Print what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("/tmp/alarm-runs"))
    parser.add_argument("--clean", type=int, default=36)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--faulted", type=int, default=4)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    clean = [
        (run, rows_of(run, given.runs)) for run in clean_runs(given.clean, given.first)
    ]
    faulted = [
        (run, rows_of(run, given.runs))
        for run in faulted_runs(given.faulted, given.first)
    ]
    in_rows = recall_in_rows(clean)
    all_of = [sum(one[key] for one in in_rows.values()) for key in ("found", "of")]
    result = {
        "clean": false_alarms(clean),
        "made": recall_in_runs(faulted),
        "in_rows": in_rows,
        "recall_in_rows": round(all_of[0] / all_of[1], 4),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
