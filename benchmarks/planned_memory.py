"""How far are planned bytes from the truth? Over configurations drawn by a seed.

Draws configurations, stratified (dense, compiled, routed, QLoRA, long, accumulation,
EMA, offload; also depths and recursions among the routed), plans each for an H200, and
holds the planner's two figures, and the trace of the step on tensors without memory,
against each other and against what PyTorch's allocator says, for each stage of a step.

    python benchmarks/planned_memory.py trace --count 150 --out trace.jsonl
    python benchmarks/planned_memory.py device --count 40 --workers 8 --out device.jsonl
    python benchmarks/planned_memory.py table trace.jsonl device.jsonl

`trace` needs no device and `device` a CUDA GPU. Each line of a file is one
configuration; those that a file already holds are left out, and after `--minutes` no
further one is begun. `table` exits with code 1 where a bound was under what was
allocated. Configurations for the development of the planner come from another seed
(`--seed 1`), those that are published from the seed that is the default.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SEED = 20261130
"""Of the configurations that figures are published of."""

LARGEST = 30 * 2**30
"""Bytes of a bound above which a configuration is drawn anew."""

ROOM = 120 * 2**30
"""Bytes that processes beside each other may be planned to take of the device."""

STAGES = ("forward", "backward", "optimizer", "evaluation")

LEFT_OUT = 150.0
"""Seconds after which the process of one configuration is ended."""


def _base(draw: random.Random) -> dict[str, Any]:
    """A dense model of ordinary proportions."""
    head = draw.choice((64, 128))
    heads = draw.choice((4, 6, 8, 12, 16)) * (64 // head + 1) // 2
    width = head * heads
    return {
        "hidden_size": width,
        "num_heads": heads,
        "num_kv_heads": draw.choice([k for k in (1, 2, 4, heads) if heads % k == 0]),
        "num_layers": draw.choice((3, 5, 8, 12)),
        "intermediate_size": draw.choice((2, 3, 4)) * width,
        "vocab_size": draw.choice((8192, 32000, 50304, 128256)),
        "tie_embeddings": draw.random() < 0.5,
        "seq_length": draw.choice((512, 1024, 1536, 2048)),
        "rows": draw.choice((1, 2, 4, 6)),
        "precision": draw.choice(("auto", "auto", "auto", "fp32")),
        "gradient_checkpointing": draw.choice(("none", "none", "selective", "full")),
        "compile": False,
    }


def _dense(draw: random.Random) -> dict[str, Any]:
    extra = draw.choice(
        (
            {},
            {"qk_norm": "rms"},
            {"dropout": 0.1},
            {"qk_norm": "l2"},
            {"optimizer": draw.choice(("lion", "muon", "adafactor", "adamw_8bit"))},
            {"pos_encodings": "learned"},
            {"activation_bits": "8"},
            {"feedforward_tile": 512},
        )
    )
    if extra.get("feedforward_tile"):
        extra = extra | {"gradient_checkpointing": draw.choice(("none", "full"))}
    if extra.get("activation_bits"):
        extra = extra | {"gradient_checkpointing": draw.choice(("none", "full"))}
    return extra


def _compiled(draw: random.Random) -> dict[str, Any]:
    return {"compile": True}


def _routed(draw: random.Random) -> dict[str, Any]:
    kind = draw.choice(("moe", "moe", "moe", "mod", "mor"))
    if kind == "mod":
        return {"use_mod": True}
    if kind == "mor":
        return {"use_mor": True, "mor_recursions": draw.choice((2, 3))}
    return {
        "use_moe": True,
        "num_experts": draw.choice((4, 8, 16)),
        "moe_top_k": draw.choice((1, 2)),
        "moe_intermediate_size": draw.choice((256, 512, 1024)),
        "moe_dispatch": draw.choice(("dropless", "dropless", "capacity")),
        "num_layers": draw.choice((3, 5)),
        "precision": "auto",
    }


def _qlora(draw: random.Random) -> dict[str, Any]:
    few = draw.choice(({"load_in_4bit": True}, {"load_in_8bit": True}, {}))
    return few | {
        "use_peft": True,
        "init_from": "base",
        "lora_r": draw.choice((4, 16, 64)),
        "lora_target_modules": draw.choice((("full",), ("attention",))),
        "lora_dropout": draw.choice((0.0, 0.0, 0.1)),
        "precision": "auto",
    }


def _long(draw: random.Random) -> dict[str, Any]:
    # A mask of all pairs of tokens, which float32 needs, would be most of it.
    how = draw.choice(
        (
            {"gradient_checkpointing": "full"},
            {"gradient_checkpointing": "selective"},
            {"gradient_checkpointing": "sqrt"},
            {"attention": "blockwise", "gradient_checkpointing": "full"},
            {"use_chunked_training": True, "chunk_size": 2048},
        )
    )
    return how | {
        "seq_length": draw.choice((8192, 16384, 32768)),
        "rows": 1,
        "num_layers": draw.choice((4, 8)),
        "hidden_size": 512,
        "num_heads": 8,
        "num_kv_heads": draw.choice((2, 8)),
        "intermediate_size": 1536,
        "precision": "auto",
    }


def _accumulation(draw: random.Random) -> dict[str, Any]:
    return {"accumulate": draw.choice((2, 3, 4)), "rows": draw.choice((1, 2))}


def _ema(draw: random.Random) -> dict[str, Any]:
    return {"ema_decay": 0.999}


def _offload(draw: random.Random) -> dict[str, Any]:
    return draw.choice(
        (
            {"optimizer_states_in": "host"},
            {"optimizer_in_backward": True, "max_grad_norm": 0.0, "compile": False},
            {"activations_in": "host", "gradient_checkpointing": "full"},
        )
    )


STRATA = {
    "dense": _dense,
    "compiled": _compiled,
    "routed": _routed,
    "qlora": _qlora,
    "long": _long,
    "accumulation": _accumulation,
    "ema": _ema,
    "offload": _offload,
}


def drawn(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """So many configurations, the strata in turn; the first are always the same."""
    for number in range(count):
        yield one_drawn(seed, number)


def one_drawn(seed: int, number: int) -> dict[str, Any]:
    """A configuration that can be planned, and is not too large to measure."""
    from lumina.errors import LuminaError

    stratum = list(STRATA)[number % len(STRATA)]
    for again in range(100):
        draw = random.Random(f"{seed}/{number}/{again}")
        options = _base(draw)
        options |= STRATA[stratum](draw)
        case = {"number": number, "stratum": stratum, "options": options}
        try:
            plan = plan_of(case)
        except LuminaError:
            continue
        if plan.memory["bound"] <= LARGEST:
            return case
    raise AssertionError(f"nothing that can be planned was drawn for {stratum}")


def plan_of(case: dict[str, Any], machine: Any = None) -> Any:
    """The Plan of a configuration, for an H200 that need not be present."""
    from lumina.config import Config
    from lumina.plan.make import make_plan

    options = dict(case["options"])
    rows, accumulate = options.pop("rows"), options.pop("accumulate", 1)
    config = Config(
        batch_size=rows, global_batch_size=rows * accumulate, steps=100, **options
    )
    known = {"tokenizer_vocab_size": None, "rows_per_epoch": 1000}
    return make_plan(config, machine or h200(), **known)


def h200() -> Any:
    """The machine that is planned for."""
    from dataclasses import replace

    from lumina.plan.environment import probe
    from lumina.plan.hardware_profiles import find_profile

    _, profile = find_profile("h200")
    found = profile.machine(probe("cpu"), 1)
    return replace(found, compiler=True, compiler_detail="planned for")


# What is measured: each function gives the figures of one configuration.


def on_device(case: dict[str, Any]) -> dict[str, Any]:
    """Two steps on the GPU of this process."""
    from lumina.train.planned_memory.probe import measure

    return measure(plan_of(case).to_dict(), [])


def by_trace(case: dict[str, Any]) -> dict[str, Any]:
    """The same steps on tensors that have no memory."""
    from lumina.train.planned_memory.trace import trace

    begun = time.perf_counter()
    found = trace(plan_of(case))
    return {"trace": found.facts(), "seconds": time.perf_counter() - begun}


MODES = {"device": on_device, "trace": by_trace}


def one_process(mode: str, case: dict[str, Any]) -> dict[str, Any]:
    """The figures of a configuration, taken in a process of its own."""
    command = [sys.executable, __file__, mode, "--case", json.dumps(case)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=LEFT_OUT
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it did not end within {LEFT_OUT:g} s"}
    if done.returncode:
        return {"error": done.stderr[-1500:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Room:
    """Lets processes begin while their planned bytes fit beside each other."""

    def __init__(self, size: int) -> None:
        self._free = self._size = size
        self._changed = threading.Condition()

    def take(self, size: int) -> int:
        """Wait for room, and say how much was taken."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: size <= self._free)
            self._free -= size
        return size

    def give(self, size: int) -> None:
        """Give back what `take` took."""
        with self._changed:
            self._free += size
            self._changed.notify_all()


def run(args: argparse.Namespace) -> int:
    """Take all configurations that the file does not hold, a line for each."""
    out = Path(args.out)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {
        (line["seed"], line["number"])
        for line in map(json.loads, lines)
        if "error" not in line
    }
    ends = time.monotonic() + 60 * args.minutes
    room, lock = Room(ROOM), threading.Lock()
    cases = [
        case
        for case in drawn(args.seed, args.count)
        if (args.seed, case["number"]) not in done
    ]
    # Code is compiled for a minute: those begin first, so that they do not end last.
    cases.sort(key=lambda case: not case["options"]["compile"])

    def take(case: dict[str, Any]) -> None:
        plan = plan_of(case)
        need = plan.memory["bound"] + 2**30 if args.mode == "device" else 0
        taken = room.take(need)
        try:
            if time.monotonic() > ends:
                return
            found = one_process(args.mode, case)
        finally:
            room.give(taken)
        line = {"mode": args.mode, "seed": args.seed, **case, **found}
        line |= {"memory": plan.memory, "compiled": plan.compile}
        with lock, out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(
            case["number"], case["stratum"], found.get("error", "")[-300:], flush=True
        )

    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(take, cases))
    return 0


def main() -> int:
    """Parse, measure or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=[*MODES, "table"])
    parser.add_argument("files", nargs="*", help="of `table`")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", default="planned_memory.jsonl")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(MODES[args.mode](json.loads(args.case))))
        return 0
    if args.mode == "table":
        return table(args.files)
    return run(args)


def table(files: list[str]) -> int:
    """Print how far the figures are apart; 1 where a bound was under the truth."""
    found = [
        json.loads(line)
        for name in files
        for line in Path(name).read_text().splitlines()
    ]
    held = {
        (one["mode"], one["seed"], one["number"]): one
        for one in found
        if "error" not in one and not one.get("out_of_memory")
    }
    traces = {key[1:]: one for key, one in held.items() if key[0] == "trace"}
    device = {key[1:]: one for key, one in held.items() if key[0] == "device"}
    missing = [one for one in found if "error" in one or one.get("out_of_memory")]
    print(f"{len(traces)} traced, {len(device)} on the device, {len(missing)} without")
    under = 0
    for one in traces.values():
        one["peak"] = max(one["trace"]["allocated"][stage] for stage in STAGES[:3])
    for one in device.values():
        one["peak"] = max(one["allocated"][stage] for stage in STAGES[:3])
        under += one["memory"]["bound"] < one["peak"]
    for stratum in (*STRATA, ""):
        print(f"\n{stratum or 'all'}")
        of = {k: d for k, d in device.items() if stratum in ("", d["stratum"])}
        tr = {k: t for k, t in traces.items() if stratum in ("", t["stratum"])}
        _line(
            "expected over the trace",
            [t["memory"]["expected"] / t["peak"] for t in tr.values()],
        )
        _line(
            "bound over the trace",
            [t["memory"]["bound"] / t["peak"] for t in tr.values()],
        )
        _line(
            "expected over allocated",
            [d["memory"]["expected"] / d["peak"] for d in of.values()],
        )
        _line(
            "bound over allocated",
            [d["memory"]["bound"] / d["peak"] for d in of.values()],
        )
        both = [(traces[k]["trace"], d) for k, d in of.items() if k in traces]
        for kind in ("allocated", "reserved"):
            for stage in STAGES:
                pairs = [
                    t[kind][stage] / d[kind][stage]
                    for t, d in both
                    if t[kind].get(stage)
                ]
                _line(f"trace over {kind}, {stage}", pairs)
    if under:
        print(f"\n{under} bounds were under what was allocated")
    return 1 if under else 0


def _line(words: str, ratios: list[float]) -> None:
    """Median, 95th percentile and worst distance from 1, and both ends."""
    if not ratios:
        return
    off = sorted(abs(ratio - 1) for ratio in ratios)
    at = off[min(len(off) - 1, int(0.95 * len(off)))]
    print(
        f"  {words:36} n {len(off):3}  median {statistics.median(off):6.2%}  "
        f"95% {at:6.2%}  worst {off[-1]:6.2%}  from {min(ratios):.3f} to "
        f"{max(ratios):.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
