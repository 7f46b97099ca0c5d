"""Does a long run stay steady? 500 steps of every architecture, compiled.

Trains each architecture on a small config through `Trainer`, with everything a run does
in between: evaluation, checkpoints, metrics, and for Mixture of Depths a capacity that
keeps changing. Prints how often anything was compiled during warm-up (the first 50
steps) and after it, which should be never, and what was allocated at step 50 and at
step 500, which should be the same to the byte on a GPU. Each runs in a process of its
own. It ends with exit code 1 if one was not steady.

    python benchmarks/steady.py --output steady.json [--only NAME ...] [--device cpu]
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

WARM_UP, LAST = 50, 500
EVALUATE_EVERY, SAVE_EVERY, CHANGE_EVERY = 15, 95, 7
"""Step 50 and step 500 are none of these, so both are measured alike."""

SPARE_TENSORS, SPARE_BYTES = 40, 32 * 2**20
"""What the next batches, read ahead, and the C library's heap may differ by."""

CAPACITIES = (0.25, 0.5, 0.75)
MOE = {"use_moe": True, "num_experts": 8, "moe_top_k": 2}
MOD = {"use_mod": True, "mod_capacity_factor": 0.5}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense, sliding window": {"window_size": 48},
    "latent attention": {"mla_kv_rank": 32, "mla_rope_dim": 16},
    "MoE dropless": MOE,
    "MoE capacity": {**MOE, "moe_dispatch": "capacity", "capacity_factor": 1.0},
    "MoE sigmoid, bias, shared": {
        **MOE,
        "moe_score": "sigmoid",
        "moe_bias_update_rate": 0.001,
        "load_balancing_weight": 0.0,
        "moe_shared_experts": 1,
    },
    "MoD": MOD,
    "MoD feed-forward": {**MOD, "mod_scope": "feedforward"},
    "MoD changing capacity": {**MOD, "mod_capacity_ladder": CAPACITIES},
    "hybrid MoE + MoD": {**MOE, **MOD, "moe_pattern": "interleaved"},
    "MoR": {"use_mor": True, "mor_recursions": 3},
    "MoR token choice": {
        "use_mor": True,
        "mor_recursions": 3,
        "mor_routing": "token_choice",
    },
    "MoR shared keys": {"use_mor": True, "mor_recursions": 3, "mor_kv_sharing": True},
    "HRM puzzles": {"use_hrm": True},
    "TRM puzzles": {"use_hrm": True, "hrm_variant": "trm"},
    "HRM language model": {"use_hrm": True, "hrm_mode": "language_model"},
}
"""Name -> options of `lumina train` beside those all share."""


def config(name: str, folder: Path, device: str, last: int, width: int) -> Any:
    """The settings of a run: four blocks, or two modules of two for puzzles."""
    from lumina.config import Config

    options = ARCHITECTURES[name]
    values: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        "hidden_size": width,
        "num_layers": 4,
        "num_heads": width // 32,
        "num_kv_heads": width // 32,
        "global_batch_size": 8,
        "batch_size": 8,
        "steps": last + 5,
        "warmup_steps": 10,
        "learning_rate": 1e-3,
        "max_grad_norm": 1.0,
        "eval_batches": 1,
        "eval_every_n_batches": EVALUATE_EVERY,
        "save_every_n_batches": SAVE_EVERY,
        "save_total_limit": 1,
        "device": device,
        "compile": True,
        "num_workers": 1,
        "seed": 1,
    }
    if options.get("use_hrm"):
        values |= {"h_layers": 2, "l_layers": 2, "halt_max_steps": 4}
    if options.get("use_hrm") and "hrm_mode" not in options:
        values |= {
            "train_data": (str(write_puzzles(folder)),),
            "seq_length": 81,
            "vocab_size": 11,
            "eval_fraction": 0.1,
        }
    else:
        values |= {
            "train_data": (str(write_text(folder)),),
            "tokenizer_vocab_size": 300,
            "intermediate_size": 2 * width,
            "seq_length": 2 * width,
        }
    return Config(**(values | options))


def write_text(folder: Path) -> Path:
    """Documents of very different lengths, so that every packed row is another one."""
    draw = random.Random(0)
    path = folder / "text.txt"
    documents = (
        " ".join(str(draw.randrange(10**4)) for _ in range(draw.randrange(2, 120)))
        for _ in range(1500)
    )
    path.write_text("<|endoftext|>".join(documents))
    return path


def write_puzzles(folder: Path) -> Path:
    """Sudokus with more or fewer blanks, from one solution with its digits renamed."""
    draw = random.Random(0)
    solved = "483921657967345821251876493548132976729564138136798245372689514814253769695417382"  # noqa: E501
    lines = []
    for _ in range(200):
        digits = draw.sample("123456789", 9)
        solution = "".join(digits[int(c) - 1] for c in solved)
        blanks = set(draw.sample(range(81), draw.randrange(5, 60)))
        puzzle = "".join("." if i in blanks else c for i, c in enumerate(solution))
        lines.append(f"{puzzle},{solution}")
    path = folder / "puzzles.txt"
    path.write_text("\n".join(lines))
    return path


class Watch:
    """Counts compilations and measures memory while a Trainer runs.

    Attributes:
        at: step -> what was held then.
        compiled: the step in which each compilation happened; on a GPU, whose rows
            come a step late, that step or the one before.
        seconds: of every step.
    """

    def __init__(self, marks: tuple[int, ...]) -> None:
        self.at: dict[int, dict[str, int]] = {step: {} for step in marks}
        self.compiled: list[int] = []
        self.seconds: list[float] = []
        self.tokens = 0
        self.step = 0

    def on_compile(self, _: Any) -> None:
        """Called by torch when it begins to compile a frame or a backward."""
        self.compiled.append(self.step + 1)

    def on_step(self, trainer: Any, row: dict[str, Any]) -> None:
        """Called with every finished row; asks for the next capacity, if any."""
        self.step = row["step"]
        self.seconds.append(row["step_seconds"])
        self.tokens = row["tokens"]
        if self.step in self.at:
            self.at[self.step] = held()
        if self.step == max(self.at):
            trainer.stop()  # nothing later is looked at
        mod = trainer.plan.spec.mod
        if mod is not None and len(mod.ladder) > 1 and self.step % CHANGE_EVERY == 0:
            turn = self.step // CHANGE_EVERY
            trainer.adjust_mod_capacity(CAPACITIES[turn % len(CAPACITIES)])


def held() -> dict[str, int]:
    """Bytes of the process, of its GPU, and of the tensors Python knows of."""
    import psutil
    import torch

    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)
    tensors = [o for o in gc.get_objects() if type(o) in kinds]
    found = {
        "tensors": len(tensors),
        "resident": psutil.Process().memory_info().rss,
    }
    if torch.cuda.is_available():
        found["allocated"] = torch.cuda.memory_allocated()
        found["peak_reserved"] = torch.cuda.max_memory_reserved()
    return found


def measure(
    name: str,
    folder: Path,
    device: str = "cuda",
    *,
    warm_up: int = WARM_UP,
    last: int = LAST,
    width: int = 256,
    backend: str = "inductor",
) -> dict[str, Any]:
    """Train one architecture and say what it compiled and what it held.

    Args:
        name: of `ARCHITECTURES`.
        folder: an empty one, for data and the run.
        device: "cuda" or "cpu".
        warm_up: steps in which compiling is allowed.
        last: the step that memory is compared at with that after warm-up.
        width: of the model.
        backend: of torch.compile; "aot_eager" traces and guards alike but makes no
            kernels.
    """
    import torch
    from torch._dynamo.callback import callback_handler

    import lumina
    from lumina.observe.console import Console

    torch.compiler.reset()
    watch = Watch((warm_up, last))
    trainer = lumina.Trainer(
        config(name, folder, device, last, width),
        console=Console(stream=io.StringIO(), live=False),
        on_step=watch.on_step,
    )
    callback_handler.register_start_callback(watch.on_compile)
    compiling = partialmethod(torch.nn.Module.compile, backend=backend)
    try:
        # Past the limit torch would run uncompiled and compile no more: refuse that.
        with (
            torch._dynamo.config.patch(fail_on_recompile_limit_hit=True),
            patch.object(torch.nn.Module, "compile", compiling),
        ):
            result = trainer.train()
    finally:
        callback_handler.remove_start_callback(watch.on_compile)
        torch.compiler.reset()
    assert trainer.plan is not None and trainer.plan.compile
    timed = watch.seconds[warm_up:last]
    return {
        "compiles_in_warm_up": sum(step <= warm_up for step in watch.compiled),
        "compiles_after": sum(warm_up < step <= last for step in watch.compiled),
        "compiled_in_steps": sorted(set(watch.compiled)),
        "at_warm_up": watch.at[warm_up],
        "at_last": watch.at[last],
        "tokens_per_second": watch.tokens / result.steps / statistics.median(timed),
        "final_loss": result.final_loss,
    }


def unsteady(found: dict[str, Any]) -> str:
    """What was not steady, in words; empty if nothing."""
    first, last = found["at_warm_up"], found["at_last"]
    told = []
    if not found["compiles_in_warm_up"]:
        told.append("nothing was compiled at all")
    if found["compiles_after"]:
        told.append(f"compiled in steps {found['compiled_in_steps']}")
    spare = {"tensors": SPARE_TENSORS, "allocated": 0}
    if "allocated" not in first:
        spare["resident"] = SPARE_BYTES
    for kind, most in spare.items():
        if kind in first and last[kind] > first[kind] + most:
            told.append(f"{kind}: {first[kind]:,} -> {last[kind]:,}")
    return "; ".join(told)


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| architecture | compiles in warm-up | after | allocated at step "
        f"{WARM_UP} | at {LAST} | peak reserved | tokens/s | steady |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, found in results.items():
        first, last = found["at_warm_up"], found["at_last"]
        measure = "allocated" if "allocated" in first else "resident"
        peak = last.get("peak_reserved", 0) / 2**20
        lines.append(
            f"| {name} | {found['compiles_in_warm_up']} | {found['compiles_after']} "
            f"| {first[measure]:,} B | {last[measure]:,} B | {peak:,.0f} MiB "
            f"| {found['tokens_per_second']:,.0f} | {unsteady(found) or 'yes'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Every architecture in a process of its own, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("steady.json"))
    parser.add_argument("--only", nargs="+", default=[], help="names' beginnings")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LUMINA_CACHE"] = f"{folder}/cache"
            found = measure(args.child, Path(folder), args.device, width=args.width)
        print(json.dumps(found))
        return
    facts = {"benchmark": "steady", "warm_up": WARM_UP, "last": LAST} | machine(args)
    results: dict[str, dict[str, Any]] = {}
    for name in ARCHITECTURES:
        if args.only and not any(name.startswith(begin) for begin in args.only):
            continue
        start = time.monotonic()
        results[name] = in_process(name, args)
        took = time.monotonic() - start
        print(f"{name} ({took:.0f} s): {unsteady(results[name]) or 'steady'}")
        whole = facts | {"results": results}
        args.output.write_text(json.dumps(whole, indent=1) + "\n")
    print(table(results))
    sys.exit(any(map(unsteady, results.values())))


def in_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One architecture's facts, from a process that begins with nothing."""
    command = [sys.executable, __file__, "--child", name, "--device", args.device]
    done = subprocess.run(
        [*command, "--width", str(args.width)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Where and with what this was measured."""
    import torch

    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "width": args.width,
    }


if __name__ == "__main__":
    main()
