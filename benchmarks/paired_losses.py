"""Held-out losses of optimizers, at rates tuned alike, over paired seeds.

Every variant first trains once at each of the same number of rates, a factor of two
apart around a middle of its own; where the best one lies at an end, rates beyond it are
tried until it does not. Those runs use a seed of their own. Then every variant trains
at its best rate from the same seeds: a seed gives all of them the same first weights
and the same order of rows. What is compared is the loss on the same held-out rows at
the end, as the mean over seeds of the difference from the first variant, with its 95%
interval by Student's t. The margin stands here, before anything is run:

    same     the whole interval lies within `MARGIN` of zero, on both sides
    better   the whole interval lies below `-MARGIN`
    worse    the whole interval lies above `MARGIN`
    open     none of these

    python benchmarks/paired_losses.py --data books.tar.xz --out paired_losses.json

A run that is there already is not repeated (`--work FOLDER`), so an interrupted
measurement goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
MARGIN = 0.01
TUNING_SEED = 1000
MODEL = (
    "--preset debug --no-use-moe --hidden-size 256 --num-layers 6 --num-heads 4 "
    "--num-kv-heads 4 --intermediate-size 704 --seq-length 512 "
    "--batch-size 32 --gradient-accumulation-steps 1 --no-compile "
    "--tokenizer-vocab-size 4096 --weight-decay 0.1 --lr-scheduler cosine "
    "--warmup-ratio 0.1 --eval-batches 40 --report-samples 0 "
    "--save-every-n-batches 0"
)
MIDDLES = {
    "adamw": 4e-3,
    "adamw_bf16": 4e-3,
    "adamw_8bit": 4e-3,
    "adamw_4bit": 4e-3,
    "muon": 4e-3,
    "schedule_free": 8e-3,
    "lion": 5e-4,
    "soap": 4e-3,
}
"""Where each variant's rates begin: the middle of its grid."""

EXTRA = {"schedule_free": ["--lr-scheduler", "constant"]}
"""Options of a variant beside its name."""

# Two-sided 95% points of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Run:
    """One training: a variant at a rate from a seed."""

    variant: str
    rate: float
    seed: int


class Trainings:
    """Runs of the command, several at once, each at most once."""

    def __init__(self, work: Path, data: Path, steps: int, at_once: int) -> None:
        self.work, self.data, self.steps = work, data, steps
        self.at_once = at_once

    def losses(self, runs: list[Run]) -> list[float]:
        """The final held-out loss of each; infinite where a run diverged."""
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self.loss, runs))

    def loss(self, run: Run) -> float:
        """Train once, or take what is there."""
        folder = self.work / f"{run.variant}-{run.rate:.6g}-{run.seed}"
        result = self.work / f"{folder.name}.json"
        if not result.exists():
            loss, seconds = self.train(run, folder)
            result.write_text(json.dumps({"loss": loss, "seconds": seconds}))
            print(f"{folder.name}: {loss:.4f} in {seconds:.0f} s", flush=True)
        return float(json.loads(result.read_text())["loss"])

    def options(self, run: Run) -> list[str]:
        """Those of the model and of the variant."""
        return [
            *MODEL.split(),
            *("--optimizer", run.variant),
            *EXTRA.get(run.variant, []),
        ]

    def train(self, run: Run, folder: Path) -> tuple[float, float]:
        """Loss and seconds of a new run."""
        command = [sys.executable, "-m", "lumina", "train", *self.options(run)]
        command += ["--train-data", str(self.data), "--steps", str(self.steps)]
        command += ["--eval-every-n-batches", str(self.steps)]
        command += ["--learning-rate", repr(run.rate)]
        command += ["--seed", str(run.seed), "--run-dir", str(folder)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                [str(SOURCE), os.environ.get("PYTHONPATH", "")]
            ),
            "LUMINA_CACHE": str(self.work / "cache"),
            "OMP_NUM_THREADS": "2",
        }
        if folder.exists():  # of a run that was interrupted
            shutil.rmtree(folder)
        began = time.monotonic()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - began
        rows = evaluations(folder / "metrics.jsonl")
        if done.returncode and "E301" in done.stderr:  # the rate is too large
            return math.inf, seconds
        if done.returncode or not rows:
            raise SystemExit(f"{folder.name}: {done.returncode}: {done.stderr[-900:]}")
        return rows[-1], seconds


def evaluations(file: Path) -> list[float]:
    """The held-out losses that a run wrote, in their order."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [row["eval_loss"] for row in map(json.loads, lines) if "eval_loss" in row]


def tuned(trainings: Trainings, variants: list[str], count: int) -> dict[str, Any]:
    """The rates tried for each variant, with their losses."""
    half = count // 2
    tried: dict[str, dict[float, float]] = {name: {} for name in variants}
    wanted = {
        name: [MIDDLES[name] * 2.0**power for power in range(-half, count - half)]
        for name in variants
    }
    while any(wanted.values()):
        runs = [
            Run(name, rate, TUNING_SEED) for name in variants for rate in wanted[name]
        ]
        for run, loss in zip(runs, trainings.losses(runs), strict=True):
            tried[run.variant][run.rate] = loss
        wanted = {name: beyond(tried[name]) for name in variants}
    return tried


def best_rate(losses: dict[float, float]) -> float:
    """The rate of the smallest loss."""
    return min(losses, key=lambda rate: losses[rate])


def beyond(losses: dict[float, float]) -> list[float]:
    """The next rate to try where the best one so far is at an end."""
    best = best_rate(losses)
    if best == max(losses):
        return [best * 2]
    return [best / 2] if best == min(losses) else []


def compared(base: list[float], other: list[float]) -> dict[str, Any]:
    """Mean difference over seeds, its interval, and what that means."""
    differences = [b - a for a, b in zip(base, other, strict=True)]
    mean, count = statistics.mean(differences), len(differences)
    half = STUDENT[count - 2] * statistics.stdev(differences) / math.sqrt(count)
    low, high = mean - half, mean + half
    verdict = "open"
    if low >= -MARGIN and high <= MARGIN:
        verdict = "same"
    elif high < -MARGIN:
        verdict = "better"
    elif low > MARGIN:
        verdict = "worse"
    return {"difference": mean, "low": low, "high": high, "verdict": verdict}


def main() -> None:
    """Tune, compare, print a line for each variant, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="text to train on")
    parser.add_argument("--out", type=Path, default=Path("paired_losses.json"))
    parser.add_argument("--work", type=Path, default=Path("paired_losses"))
    parser.add_argument("--variants", nargs="+", default=list(MIDDLES)[:5])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rates", type=int, default=4, help="rates in a first grid")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--at-once", type=int, default=6, help="runs side by side")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    names = arguments.variants
    trainings = Trainings(
        arguments.work, arguments.data, arguments.steps, arguments.at_once
    )
    # The first run alone makes the tokenizer and the token store that all others read.
    trainings.loss(Run(names[0], MIDDLES[names[0]], TUNING_SEED))
    tried = tuned(trainings, names, arguments.rates)
    best = {
        name: min(tried[name], key=lambda rate: tried[name][rate]) for name in names
    }
    seeds = range(arguments.seeds)
    runs = [Run(name, best[name], seed) for seed in seeds for name in names]
    by_run = dict(zip(runs, trainings.losses(runs), strict=True))
    losses = {n: [by_run[Run(n, best[n], seed)] for seed in seeds] for n in names}
    found: dict[str, Any] = {}
    for name in names:
        found[name] = {
            "rates": {
                f"{rate:.6g}": loss for rate, loss in sorted(tried[name].items())
            },
            "rate": best[name],
            "losses": losses[name],
            "mean": statistics.mean(losses[name]),
        }
        line = f"{name:14} rate {best[name]:.6g}: {found[name]['mean']:.4f}"
        if name != names[0]:
            found[name] |= compared(losses[names[0]], losses[name])
            line += " ({difference:+.4f}, {low:+.4f} to {high:+.4f}: {verdict})".format(
                **found[name]
            )
        print(line, flush=True)
    import torch

    facts = {
        "benchmark": "paired_losses",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "steps": arguments.steps,
        "model": MODEL,
        "margin": MARGIN,
        "variants": found,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
