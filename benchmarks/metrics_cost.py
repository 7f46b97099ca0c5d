"""What measuring costs: the time of a step with little, the usual and all measured.

One program of Work A (1.498 B, see work_ab.py; on a CPU a small model) trains under
three settings in turn, in an order that turns round: `basic` (--metrics basic, no
health checks), `usual` (the defaults) and `all` (the usual; times, updates, heads and
layers every ten steps). Everything that the loop does with a step's numbers is done:
they are read a step late, rows are written, shown to the rules and to a console. A
block is ten steps of each setting, twice; its times are compared with those of the same
block. On a CPU the time is that of the process, which other work disturbs less.

    python benchmarks/metrics_cost.py --out benchmarks/results/metrics_cost-h200.json
    python benchmarks/metrics_cost.py --work B ...     with experts
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import work_shapes
from lumina.assemble.assemble import assemble
from lumina.assemble.counted import counted_shapes
from lumina.batch import Batch
from lumina.data.stream import StepBatches
from lumina.observe.console import Console
from lumina.plan.plan import Plan
from lumina.train.recorder import Recorder
from lumina.train.ring import MetricRing
from lumina.train.rules import RunningRules, with_rules
from lumina.train.step import train_step
from lumina.train.watch import Watch

USUAL = {"accuracy": 1, "gradient_variance": 10, "utilisation": 10, "health": 1}
LOOKS = dict.fromkeys(
    ("step_times", "weight_changes", "attention", "layer_profile"), 10
)
SETTINGS: dict[str, dict[str, int]] = {
    "basic": {},
    "usual": USUAL,
    "all": USUAL | LOOKS,
}
STEPS = 10
"""Of a turn: each look is due once."""

SMALL = dict(vocab=1024, hidden=128, layers=4, heads=4, kv=2, head_dim=32, ffn=512)


class Setting:
    """A setting of the same program, with the bookkeeping of its own."""

    def __init__(self, program: Any, measures: dict[str, int], folder: Path) -> None:
        self.program = program
        self.plan = with_rules(program.plan.replace(measures=measures))
        folder.mkdir()
        self.recorder = Recorder(
            folder,
            self.plan,
            Console(stream=io.StringIO(), live=False),
            main=True,
            device_name=torch.cuda.get_device_name() if cuda() else "cpu",
            memory_bytes=(
                torch.cuda.get_device_properties(0).total_memory if cuda() else 2**34
            ),
        )
        self.rules = RunningRules.of(self.plan)
        self.step = 0

    def turn(self, batches: list[StepBatches]) -> float:
        """Seconds of `STEPS` steps together."""
        program, plan = self.program, self.plan
        program.replan(plan)
        program.counts = counted_shapes(plan)
        ring = MetricRing(cuda())
        settle()
        ring.clock.restart()
        begin = now()
        for _ in range(STEPS):
            batch = batches[self.step % len(batches)]
            watch = Watch.of(program, batch, self.step + 1)
            values = train_step(program, batch, self.step, watch=watch)
            self.step += 1
            ring.push(self._known(batch, watch), values)
            self._write(ring.pop(1))
        self._write(ring.pop(0))
        settle()
        return now() - begin

    def _known(self, batch: StepBatches, watch: Watch) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.step * batch.tokens,
            "epoch": 0.0,
            "learning_rate": 1e-4,
            "data_wait_seconds": 0.0,
            "step_tokens": batch.tokens,
            "loss_tokens": batch.loss_tokens,
            "held": self.program.held,
            "watch": watch,
            "facts": {},
        }

    def _write(self, arrived: list[tuple[dict[str, Any], list[float]]]) -> None:
        for known, values in arrived:
            row = self.recorder.row(self.plan, known, values)
            row |= known["watch"].row(values)
            self.rules.see(row, lambda _: None)
            row |= self.rules.metrics()
            self.recorder.write(row)


def cuda() -> bool:
    return torch.cuda.is_available()


def now() -> float:
    """Seconds: of the clock on a GPU, of the process on a CPU, which others share."""
    return time.perf_counter() if cuda() else time.process_time()


def settle() -> None:
    if cuda():
        torch.cuda.synchronize()


def interval(ratios: list[float]) -> list[float]:
    """95% of the medians of resampled blocks."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(4000)
    )
    return [medians[100], medians[-101]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="A", choices=list(work_shapes.SHAPES))
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if cuda() else "cpu"
    shape = work_shapes.SHAPES[arguments.work] if cuda() else SMALL
    rows, length = (
        (work_shapes.MICRO_BATCH, work_shapes.SEQUENCE) if cuda() else (4, 128)
    )
    plan = Plan(
        spec=work_shapes.spec_of(shape, length),
        device=device,
        compute_dtype="bfloat16" if cuda() else "float32",
        micro_batch_size=rows,
        global_batch_size=rows,
        steps=100_000,
        compile=cuda(),
        attention="varlen" if cuda() else "sdpa",
        loss_chunk_bytes=2**30,
        measures=USUAL,
    )
    program = assemble(plan)
    program.model.train()
    batches = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, shape["vocab"], (rows, length + 1), generator=generator)
        batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        count = rows * length
        batches.append(StepBatches([batch.to(device)], count, count, {}, 0.0, []))
    with tempfile.TemporaryDirectory() as place:
        settings = {
            name: Setting(program, measures, Path(place) / name)
            for name, measures in SETTINGS.items()
        }
        for setting in settings.values():  # compiles, and finds its memory
            setting.turn(batches)
        seconds: dict[str, list[float]] = {name: [] for name in settings}
        names = list(settings)
        for block in range(arguments.blocks):
            turned = names[block % 3 :] + names[: block % 3]
            spent = dict.fromkeys(names, 0.0)
            for name in [*turned, *reversed(turned)]:
                spent[name] += settings[name].turn(batches)
            for name in names:
                seconds[name].append(spent[name] / (2 * STEPS))
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds["basic"], strict=True)]
        for name in names[1:]
    }
    found = {
        "benchmark": "metrics_cost",
        "work": arguments.work if cuda() else "small",
        "device": torch.cuda.get_device_name() if cuda() else platform.processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "blocks": arguments.blocks,
        "steps_per_turn": STEPS,
        "step_seconds": {name: statistics.median(x) for name, x in seconds.items()},
        "ratio_to_basic": {name: statistics.median(x) for name, x in ratios.items()},
        "interval": {name: interval(x) for name, x in ratios.items()},
        "ratios": ratios,
    }
    for name in names:
        ratio = found["ratio_to_basic"].get(name, 1.0)  # type: ignore[attr-defined]
        low, high = found["interval"].get(name, [1.0, 1.0])  # type: ignore[attr-defined]
        took = statistics.median(seconds[name])
        print(f"{name:6} {took * 1000:9.2f} ms  {ratio:.4f} ({low:.4f} to {high:.4f})")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
