"""How many wrong levers the guard catches, and how many right ones it refuses.

Each case is a small model of Lumina with a lever: a mutant, which is wrong on purpose,
or a right one, which computes the same in another way. It is measured and judged by
`lumina.guard` with the thresholds that every run has. The first set of mutants was
there while the thresholds were chosen; the second was written after they were frozen,
and decides.

    PYTHONPATH=src python benchmarks/guard_mutants.py --set second --out FILE.jsonl

A case takes some seconds; cases that FILE has already are not run again. How fast a
lever is, is made: every step of the baseline waits until it took 1.3 times as long (3
times beside the right levers, whose kernels are slow on a CPU), so that a lever that
does nothing to the speed is about 1.3x, and a slow one waits as long as its name says.
On the CPU time is that of the process, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from guard_cases import Case, Mutated, Waiting, clock, plan_of
from guard_mistakes import (
    Hook,
    broken_at,
    gradient,
    leaking,
    merged,
    noting,
    output,
    rows,
    slow,
    spec,
)
from lumina.guard.judge import judge
from lumina.guard.measure import measure
from lumina.guard.programs import ProgramSubject, batches_of, reference_plan
from lumina.guard.statistics import exact_bounds
from lumina.guard.thresholds import THRESHOLDS
from lumina.plan.plan import Plan


def first_set() -> Iterator[tuple[Case, Hook | None, Callable[[Plan], Plan] | None]]:
    """The mutants that were there while the thresholds were chosen."""
    for dtype in ("float32", "bfloat16"):
        for name, hook in {
            "gradient x 1.01": gradient("", 1.01),
            "gradient of one matrix x 1.01": gradient("blocks.1.attention.out", 1.01),
            "dropped row": rows((3,)),
            "documents see each other": merged(8),
            "NaN in long documents": output("blocks.1", broken_at(64)),
            "0.9x": slow(0.9),
            "a leak": leaking(4096),
        }.items():
            yield Case(f"{name}, {dtype}", "mutant", dtype=dtype), hook, None
        window = spec(window_size=32)
        yield Case(f"a window of 32, {dtype}", "mutant", dtype=dtype), None, window


FASTER = ("sdpa", "blockwise")
"""Right levers that claim to be faster; the others save memory."""


def right_set() -> Iterator[tuple[Case, Hook | None, Callable[[Plan], Plan] | None]]:
    """Levers that compute the same in another way."""
    ways: dict[str, Callable[[Plan], Plan]] = {
        "sdpa": lambda p: p.replace(attention="sdpa"),
        "blockwise": lambda p: p.replace(attention="blockwise"),
        "chunked loss": lambda p: p.replace(loss_chunk_bytes=2**16),
        "tiles": lambda p: p.replace(feedforward_tile=100),
        "recomputed": lambda p: p.replace(gradient_checkpointing="full"),
        "recomputed in part": lambda p: p.replace(gradient_checkpointing="selective"),
    }
    for seed in (11, 12, 13):
        for moe in (False, True):
            for dtype in ("float32", "bfloat16"):
                for name, way in ways.items():
                    words = f"{name}, {dtype}, {'moe' if moe else 'dense'}, {seed}"
                    faster = name in FASTER
                    case = Case(words, "right", dtype, moe, seed, faster, 3.0)
                    yield case, None, way


def second_set() -> Iterator[tuple[Case, Hook | None, Callable[[Plan], Plan] | None]]:
    """The mutants that decide."""
    import guard_mutants_second

    yield from guard_mutants_second.cases()


SETS = {"first": first_set, "second": second_set, "right": right_set}


def tried(
    case: Case, hook: Hook | None, change: Callable[[Plan], Plan] | None, device: str
) -> dict[str, Any]:
    """Measure and judge a case."""
    started = time.monotonic()
    plan = plan_of(case, device)
    with_it = plan if change is None else change(plan)
    subject = Mutated(with_it)
    noting(subject)
    if hook is not None:
        subject.prepare = hook  # type: ignore[assignment,method-assign]
        hook(subject)
    baseline = Waiting(plan)
    baseline.factor = case.slower
    found = measure(
        case.name,
        ProgramSubject(reference_plan(plan)),
        baseline,
        subject,
        batches_of(plan, THRESHOLDS.batches),
        faster=case.faster,
        steps=plan.steps,
        clock=lambda: clock(baseline),
    )
    if found.failure:
        raise RuntimeError(f"{case.name}: {found.failure}")  # a mistake in the case
    verdict = judge([found])[case.name]
    return {
        "name": case.name,
        "kind": case.kind,
        "trusted": verdict.trusted,
        "text": verdict.text,
        "p": verdict.p,
        "speed": verdict.speed,
        "slope": verdict.slope,
        "seconds": round(time.monotonic() - started, 2),
    }


def summed_up(lines: list[dict[str, Any]]) -> str:
    """Rates with their exact bounds."""
    said = []
    for kind, word, counted in (
        ("mutant", "caught", False),
        ("right", "refused", False),
    ):
        some = [one for one in lines if one["kind"] == kind]
        hits = sum(one["trusted"] is counted for one in some)
        if some:
            low, high = exact_bounds(hits, len(some))
            said.append(
                f"{kind}: {hits} of {len(some)} {word}, {hits / len(some):.1%} "
                f"(95% bounds {low:.1%} to {high:.1%})"
            )
    return "\n".join(said)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--set", choices=SETS, nargs="+", default=list(SETS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    lines = []
    if args.out.exists():
        lines = [json.loads(one) for one in args.out.read_text().splitlines()]
    done = {one["name"] for one in lines}
    end = time.monotonic() + 60 * args.minutes
    for name in args.set:
        for case, hook, change in SETS[name]():
            if case.name in done or time.monotonic() > end:
                continue
            line = tried(case, hook, change, args.device) | {"set": name}
            lines.append(line)
            with open(args.out, "a") as file:
                file.write(json.dumps(line) + "\n")
            print("trusted" if line["trusted"] else "refused", case.name, line["text"],
                  flush=True)  # fmt: skip
    for name in args.set:
        print(f"[{name}]", summed_up([x for x in lines if x["set"] == name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
