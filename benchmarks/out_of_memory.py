"""Do runs survive real want of GPU memory? Seeded scenarios under real caps.

For each model and length of rows, two runs without a cap measure what the run takes as
it was asked for, and on the last rung of the memory ladder. Scenarios then draw a cap
between the two (`torch.cuda.set_per_process_memory_fraction`, a limit that the
allocator enforces), from the first step on or from a later one, where the memory goes
to a neighbour while the run goes on. With --squatters a process of its own takes the
memory of the whole GPU in the middle of some runs, one after the other.

A run that does not take all of its steps is a failure, as is one with a final loss that
differs from that of the run without a cap by more than 5% (seeds differ by less). The
same scenarios without recovery (--naive of them) say what would have happened. The
exact upper 95% bound of the share of failures is given; below 299 runs without a
failure it is above 1%.

    python benchmarks/out_of_memory.py --out oom.json [--count 300] [--seed 11]
        [--naive 40] [--squatters 4] [--workers 8]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STEPS = 8
MIB = 2**20
BASE = {
    "preset": "debug",
    "num_layers": 6,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_heads": 4,
    "num_kv_heads": 2,
    "tokenizer_vocab_size": 2048,
    "seq_length": 512,
    "batch_size": 32,
    "global_batch_size": 32,
    "steps": STEPS,
    "eval_batches": 2,
    "eval_every_n_batches": 4,
    "report_samples": 0,
    "device": "cuda",
    "use_moe": False,
    "compile": False,
    "clear_cache_every_n_steps": 1,
    "forget_memory_limits": True,
}
ROUTED = {"use_moe": True, "num_experts": 8, "moe_top_k": 2,
          "moe_intermediate_size": 384}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense, long rows": {"seq_length": 2048, "batch_size": 8, "global_batch_size": 16},
    "dense, float32": {"precision": "fp32"},
    "wide": {"hidden_size": 512, "intermediate_size": 2048, "num_layers": 4},
    "experts": ROUTED,
    "experts, long rows": ROUTED
    | {"seq_length": 2048, "batch_size": 8, "global_batch_size": 8},
    "odd batch": {"batch_size": 12, "global_batch_size": 36},
    "average and accumulation": {"ema_decay": 0.99, "batch_size": 16,
                                 "global_batch_size": 64},
}  # fmt: skip


def write_data(folder: Path) -> Path:
    """Text of drawn words, the same every time."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9)))
             for _ in range(3000)]  # fmt: skip
    lines = [" ".join(draw.choices(words, k=300)) + ".\n" for _ in range(1500)]
    path = folder / "text.txt"
    path.write_text("<|endoftext|>".join(lines))
    return path


def train(asked: Mapping[str, Any]) -> dict[str, Any]:
    """One run in this process, under the cap that is asked for.

    Args:
        asked: folder, data, name, model, changes, cap (bytes; 0: none), late (step
            after which the cap holds; 0: from the start), squat (a file to wait for).
    """
    import torch

    from lumina import Config, Trainer
    from lumina.assemble.emptying import empty_cache
    from lumina.observe.console import Console

    empty_cache()  # workspaces of cuBLAS that the run before has left among it
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(1.0)
    total = torch.cuda.get_device_properties(0).total_memory
    folder = Path(asked["folder"]) / asked["name"]
    cap, late = asked.get("cap", 0), asked.get("late", 0)

    def limit() -> None:
        # A cap below what is reserved at this moment ends nothing by itself.
        if cap:
            torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))

    def on_step(trainer: Any, row: Mapping[str, Any]) -> None:
        if late and row["step"] == late:
            limit()
        if (squat := asked.get("squat")) and row["step"] == 2:
            Path(squat).touch()
            while not Path(squat + ".ready").exists():
                time.sleep(0.05)

    if not late:
        limit()
    began = time.perf_counter()
    found: dict[str, Any] = dict(asked)
    try:
        config = Config(**(
            BASE | MODELS[asked["model"]] | asked.get("changes", {})
            | {"train_data": (asked["data"],), "run_dir": str(folder)}
        ))  # fmt: skip
        with open(os.devnull, "w") as silent:
            console = Console(stream=silent, live=False)
            result = Trainer(config, console=console, on_step=on_step).train()
        found |= {"steps": result.steps, "loss": result.final_loss, "error": ""}
    except BaseException as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        found |= {"steps": 0, "loss": math.nan, "error": text}
    torch.cuda.set_per_process_memory_fraction(1.0)
    events = folder / "events.jsonl"
    lines = events.read_text().splitlines() if events.exists() else []
    told = [json.loads(line) for line in lines]
    found["rungs"] = [
        [e["data"]["rung"], e["data"]["value"]]
        for e in told
        if e["kind"] == "out_of_memory"
    ]
    found["parts"] = sum(e["kind"] == "evaluation_in_parts" for e in told)
    found["reserved"] = torch.cuda.max_memory_reserved()
    found["seconds"] = round(time.perf_counter() - began, 2)
    return found


def scenarios(
    measured: Mapping[str, tuple[int, int]], count: int, seed: int, place: dict
) -> list[dict[str, Any]]:
    """Seeded draws of a model, a cap and the moment from which it holds."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        model = draw.choice(list(MODELS))
        least, whole = measured[model]
        share = draw.uniform(0.0, 1.0)
        low, high = 1.1 * least, 0.97 * whole
        cap = int(low * (high / low) ** share)
        late = draw.choice([0, 0, 2, 3, 5])
        found.append(place | {
            "name": f"run-{number}", "model": model, "cap": cap, "late": late,
            "changes": {"seed": draw.randrange(10**6)},
        })  # fmt: skip
    return found


def failed(one: Mapping[str, Any], losses: Mapping[str, float]) -> str:
    """Why a run is a failure; empty where it is none."""
    if one["error"] or one["steps"] != STEPS:
        return one["error"] or f"{one['steps']} steps"
    wanted = losses[one["model"]]
    # Other seeds give other losses; a run that went wrong is far away.
    if not math.isfinite(one["loss"]) or abs(one["loss"] / wanted - 1) > 0.05:
        return f"loss {one['loss']:.4f}, not {wanted:.4f}"
    return ""


def upper_bound(failures: int, count: int) -> float:
    """Clopper and Pearson's upper 95% bound (one-sided) of a share."""
    low, high = failures / count, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        chance = sum(
            math.comb(count, k) * middle**k * (1 - middle) ** (count - k)
            for k in range(failures + 1)
        )
        low, high = (middle, high) if chance > 0.05 else (low, middle)
    return high


SQUATTER = """
import sys, time, torch
from pathlib import Path
sign, leave = Path(sys.argv[1]), int(sys.argv[2])
while not sign.exists():
    time.sleep(0.02)
held = []
for size in (2**30, 2**26, 2**24):
    while torch.cuda.mem_get_info()[0] > leave + size:
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
Path(str(sign) + ".ready").touch()
sys.stdin.read()
"""


def beside_a_squatter(number: int, place: dict, least: int, whole: int) -> dict:
    """A run on a GPU that another process fills from the second step on."""
    sign = str(Path(place["folder"]) / f"squat-{number}")
    leave = int((whole - least) * (0.2 + 0.15 * number))
    squatter = subprocess.Popen(
        [sys.executable, "-c", SQUATTER, sign, str(leave)], stdin=subprocess.PIPE
    )
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(train, (place | {
                "name": f"squatted-{number}", "model": "dense", "squat": sign,
            },))  # fmt: skip
    finally:
        assert squatter.stdin is not None
        squatter.stdin.close()
        squatter.wait()


def main() -> int:
    """Measure, draw, run, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--naive", type=int, default=40)
    parser.add_argument("--squatters", type=int, default=4)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=11)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LUMINA_CACHE"] = str(folder / "cache")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        place = {"folder": name, "data": str(write_data(folder))}
        context = multiprocessing.get_context("spawn")
        with context.Pool(asked.workers) as pool:
            last = {"batch_size": 1, "gradient_checkpointing": "full"}
            pool.apply(train, (place | {"name": "first", "model": "dense"},))
            wide, narrow = (
                pool.map(train, [
                    place | {"name": f"{kind}-{n}", "model": m, "changes": changes}
                    for n, m in enumerate(MODELS)
                ], chunksize=1)
                for kind, changes in (("whole", {}), ("least", last))
            )  # fmt: skip
            for one in (*wide, *narrow):
                assert not one["error"], one
            measured = {
                w["model"]: (n["reserved"], w["reserved"])
                for w, n in zip(wide, narrow, strict=True)
            }
            losses = {one["model"]: one["loss"] for one in wide}
            drawn = scenarios(measured, asked.count, asked.seed, place)
            naive = [
                one | {"name": f"naive-{one['name']}",
                       "changes": one["changes"] | {"memory_recovery": False}}
                for one in drawn[: asked.naive]
            ]  # fmt: skip
            found = []
            for done, one in enumerate(
                pool.imap_unordered(train, [*drawn, *naive], chunksize=1), start=1
            ):
                found.append(one)
                if why := failed(one, losses):
                    print(f"{done}: {one['name']} ({one['model']}): {why}", flush=True)
        squatted = [
            beside_a_squatter(n, place, *measured["dense"])
            for n in range(asked.squatters)
        ]
    report = {
        "seed": asked.seed,
        "machine": platform.node(),
        "measured_mib": {m: [round(x / MIB) for x in v] for m, v in measured.items()},
        "losses": losses,
        "runs": found,
        "squatted": squatted,
    }
    groups = {
        "with recovery": [o for o in found if not o["name"].startswith("naive")],
        "without recovery": [o for o in found if o["name"].startswith("naive")],
        "beside a squatter": squatted,
    }
    for title, runs in groups.items():
        if not runs:
            continue
        bad = sum(bool(failed(one, losses)) for one in runs)
        met = sum(bool(one["rungs"] or one["parts"]) for one in runs)
        bound = upper_bound(bad, len(runs))
        report[title] = {"runs": len(runs), "failures": bad, "met": met, "bound": bound}
        print(
            f"{title}: {bad} of {len(runs)} failed (at most {bound:.2%} at 95%); "
            f"memory ran out in {met}"
        )
    Path(asked.out).write_text(json.dumps(report, indent=1, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
