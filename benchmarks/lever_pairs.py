"""Training speed of a Plan with and without a lever, in one process, in turn: A B B A.

Both programs stand on one GPU with the same random weights, drawn there; a turn is a
few untimed and `--steps` timed steps. A block A B B A gives one ratio of mean step
times; printed are the median of the ratios with its 95% interval from resampling the
blocks, the losses of both after as many steps, and the peak of memory of each.

    python benchmarks/lever_pairs.py --work A --with cuda_graphs=true --out graphs.json
    python benchmarks/lever_pairs.py --work A --with fp8=hybrid fp8_scaling=rowwise
    python benchmarks/lever_pairs.py --work A --with triton_kernels=true --plain-norms
    python benchmarks/lever_pairs.py --work A --inductor coordinate_descent_tuning=true

What stands behind --with are fields of a Plan; those behind --both hold for both sides.
--plain-norms takes the kernels of norms back from the second side, which leaves them to
the compiler; --inductor sets the compiler's own options while that side is compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import platform
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

UNTIMED = 2
SMALL: dict[str, dict[str, Any]] = {
    "small": dict(
        vocab=32000, hidden=768, layers=12, heads=12, kv=12, head_dim=64, ffn=2048
    ),
    "tiny": dict(vocab=512, hidden=64, layers=2, heads=2, kv=2, head_dim=32, ffn=128),
}
"""Beside the two works: a shape of 124M, and one that tries this file on a CPU."""


def work_shapes() -> Any:
    """The shapes of the two works."""
    path = Path(__file__).with_name("work_shapes.py")
    spec = importlib.util.spec_from_file_location("work_shapes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values_of(words: list[str]) -> dict[str, Any]:
    """Fields of a Plan from NAME=VALUE."""
    found = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


class Drawn:
    """Weights drawn where the program is: alike for alike shapes."""

    def __init__(self, shapes: dict[str, Any], device: Any) -> None:
        self._shapes, self._device = shapes, device

    def take(self, name: str) -> torch.Tensor:
        """Ones for norms, narrow normals for matrices."""
        shape = self._shapes[name]
        if len(shape) < 2:
            return torch.ones(shape, device=self._device)
        drawn = torch.Generator(self._device).manual_seed(len(name) * 1009 + shape[-1])
        return torch.randn(shape, device=self._device, generator=drawn) * 0.02


def program_of(plan: Any) -> Any:
    """A program with random weights."""
    from lumina.assemble.program import Program
    from lumina.assemble.ranks import Ranks

    ranks = Ranks.from_environment()
    ranks.connect(plan.device)
    program = Program(plan, ranks)
    shapes = {name: tuple(one.shape) for name, one in program._tensors()}
    program._initial = Drawn(shapes, program.device)  # type: ignore[assignment]
    program.materialise(None)
    program.model.train()
    return program


def without_norm_kernels(program: Any) -> int:
    """Leave norms to the compiler, as they are without `triton_kernels`.

    Returns:
        How many modules had kernels of norms.
    """
    found = 0
    for module in program.network.modules():
        if "function" in vars(module):  # of an RMSNorm
            del module.function
            found += 1
        if getattr(module, "norms_together", None) is not None:
            module.norms_together = None
            found += 1
    return found


def random_batch(vocab: int, rows: int, length: int, seed: int) -> Any:
    """Rows of one document each, on the host, as a run has them."""
    from lumina.batch import Batch

    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (rows, length + 1), generator=drawn)
    batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    return batch.pin_memory() if torch.cuda.is_available() else batch


def compiler_options(values: dict[str, Any]) -> Any:
    """Options of torch's compiler inside a `with`; none is known to be loaded."""
    if not values:
        return contextlib.nullcontext()
    import torch._inductor.config as inductor

    return inductor.patch(values)


def waited(plan: Any) -> None:
    """Until the device is done."""
    if plan.device == "cuda":
        torch.cuda.synchronize()


def allocated(plan: Any) -> float:
    """GiB at the peak, which begins anew."""
    if plan.device != "cuda":
        return 0.0
    found = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return found


def main() -> None:
    """Compare, print, and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", default="A", choices=("A", "B", *SMALL))
    parser.add_argument("--with", dest="changes", nargs="+", default=[])
    parser.add_argument("--plain-norms", action="store_true")
    parser.add_argument("--inductor", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--both", nargs="*", default=[])
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--eager", action="store_true", help="do not compile blocks")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not args.changes and not args.inductor:
        parser.error("name what differs: --with or --inductor")
    from lumina.data.stream import StepBatches
    from lumina.plan.plan import Plan
    from lumina.train.step import train_step

    works = work_shapes()
    shape = SMALL.get(args.work) or works.SHAPES[args.work]
    rows, length = works.MICRO_BATCH, works.SEQUENCE
    if args.work == "tiny":
        length = works.SEQUENCE = 64
    base = Plan(
        spec=works.spec_of(shape, length),
        device="cuda",
        compute_dtype="bfloat16",
        micro_batch_size=rows,
        global_batch_size=rows,
        steps=1000,
        compile=not args.eager,
        attention="varlen",
        loss_chunk_bytes=2**30,
        cuda_graphs_warmup=4,
    ).replace(**values_of(args.both))
    plans = {"off": base, "on": base.replace(**values_of(args.changes))}
    batches = [
        StepBatches(
            micro_batches=[random_batch(shape["vocab"], rows, length, number)],
            loss_tokens=rows * length,
            tokens=rows * length,
            cursor={},
            epoch=0.0,
            row_ids=[],
        )
        for number in range(4)
    ]
    programs, done, peaks = {}, dict.fromkeys(plans, 0), {}
    losses: dict[str, list[float]] = {name: [] for name in plans}

    def step(name: str) -> float:
        waited(base)
        begun = time.perf_counter()
        found = train_step(programs[name], batches[done[name] % 4], done[name])
        waited(base)
        seconds = time.perf_counter() - begun
        losses[name].append(float(found[0]))
        done[name] += 1
        return seconds

    for name, plan in plans.items():
        held = torch.cuda.memory_allocated() / 2**30 if plan.device == "cuda" else 0.0
        programs[name] = program_of(plan)
        if name == "on" and args.plain_norms:
            print(f"norms left to the compiler: {without_norm_kernels(programs[name])}")
        allocated(plan)
        first = time.perf_counter()
        own = values_of(args.inductor) if name == "on" else {}
        with compiler_options(own):
            for _ in range(args.warm_up):
                step(name)
        peaks[name] = allocated(plan) - held
        warm = time.perf_counter() - first
        print(f"{name}: warm-up {warm:.1f} s, peak {peaks[name]:.1f} GiB", flush=True)
        gc.collect()

    ratios, times = [], {name: [] for name in plans}
    for _ in range(args.blocks):
        block: dict[str, list[float]] = {name: [] for name in plans}
        for name in ("off", "on", "on", "off"):
            for _ in range(UNTIMED):
                step(name)
            block[name] += [step(name) for _ in range(args.steps)]
        ratios.append(statistics.mean(block["off"]) / statistics.mean(block["on"]))
        for name, found in block.items():
            times[name] += found
        print(f"block: {ratios[-1]:.4f}x", flush=True)
    draw = random.Random(0)
    drawn = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000)
    )
    tokens = rows * length
    result = {
        "work": args.work,
        "with": args.changes,
        "both": args.both,
        "plain_norms": args.plain_norms,
        "inductor": args.inductor,
        "compile": not args.eager,
        "speed": statistics.median(ratios),
        "interval": [drawn[50], drawn[1949]],
        "tokens_per_second": {
            name: tokens / statistics.median(found) for name, found in times.items()
        },
        "peak_gib": peaks,
        "losses_equal_to_the_bit": losses["off"] == losses["on"],
        "loss_after": {
            name: statistics.mean(found[-4:]) for name, found in losses.items()
        },
        "largest_relative_difference_of_losses": max(
            abs(one / two - 1)
            for one, two in zip(losses["on"], losses["off"], strict=False)
        ),
        "device": torch.cuda.get_device_name() if base.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": sys.argv,
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
