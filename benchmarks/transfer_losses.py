"""Whether a learning rate that was tuned on a narrow model serves a wide one, by loss.

The narrow model trains once at each rate of a grid, a factor of two apart, and so does
the wide one, without and with `--lr-transfer mup`; grids grow until the best rate is at
no end. Where rates carry over, the narrow model and the wide one with `mup` have the
same best rate. Then, from the same seeds:

    own        the wide model at the best of its own rates: what a full search gives
    taken      the wide model at the narrow model's best rate, as it is
    mup        the same rate with `--lr-transfer mup`

The differences from `own` over paired seeds, their 95% intervals and verdicts are those
of `paired_losses.py`, with its margin of 0.01. What is to be shown: `mup` is the same
as `own` or better, with none of the wide model's runs spent on a search.

    python benchmarks/transfer_losses.py --data books.tar.xz --out transfer_losses.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from paired_losses import (
    MARGIN,
    TUNING_SEED,
    Run,
    Trainings,
    best_rate,
    beyond,
    compared,
)

WIDTHS = {"narrow": 128, "wide": 1024}
HEAD = 64
COMMON = (
    "--preset debug --no-use-moe --no-tie-embeddings --num-layers 4 --seq-length "
    "256 --batch-size 32 --gradient-accumulation-steps 1 --no-compile "
    "--tokenizer-vocab-size 4096 --weight-decay 0.1 --lr-scheduler cosine "
    "--warmup-ratio 0.1 --eval-batches 40 --report-samples 0 --save-every-n-batches "
    "0 --no-auto-adjust-lr"
)
MIDDLE = 4e-3


class Widths(Trainings):
    """Runs of the narrow and the wide model."""

    def options(self, run: Run) -> list[str]:
        """The shape, and what carries a rate over."""
        width = WIDTHS["narrow" if run.variant == "narrow" else "wide"]
        found = [
            *COMMON.split(),
            *("--hidden-size", str(width), "--intermediate-size", str(3 * width)),
            *("--num-heads", str(width // HEAD), "--num-kv-heads", str(width // HEAD)),
        ]
        if run.variant == "mup":
            found += ["--lr-transfer", "mup"]
            found += ["--base-width", str(WIDTHS["narrow"])]
        return found


def searched(trainings: Trainings, variant: str, count: int) -> dict[float, float]:
    """Rates of a grid, and beyond it where the best lies at its end, with losses."""
    found: dict[float, float] = {}
    half = count // 2
    wanted = [MIDDLE * 2.0**power for power in range(-half, count - half)]
    while wanted:
        runs = [Run(variant, rate, TUNING_SEED) for rate in wanted]
        found |= dict(zip(wanted, trainings.losses(runs), strict=True))
        wanted = beyond(found)
    return found


def main() -> None:
    """Search, compare, print a line for each variant, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="text to train on")
    parser.add_argument("--out", type=Path, default=Path("transfer_losses.json"))
    parser.add_argument("--work", type=Path, default=Path("transfer_losses"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rates", type=int, default=4, help="rates in a first grid")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--at-once", type=int, default=6, help="runs side by side")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    trainings = Widths(
        arguments.work, arguments.data, arguments.steps, arguments.at_once
    )
    # The first run alone makes the tokenizer and the token store that all others read.
    trainings.loss(Run("narrow", MIDDLE, TUNING_SEED))
    grids = {
        name: searched(trainings, name, arguments.rates)
        for name in ("narrow", "wide", "mup")
    }
    for name, grid in grids.items():
        losses = " ".join(f"{r:.6g}:{loss:.4f}" for r, loss in sorted(grid.items()))
        print(f"{name:10} {losses}", flush=True)
    rates = {name: best_rate(grid) for name, grid in grids.items()}
    taken = rates["narrow"]
    variants = {"own": Run("wide", rates["wide"], 0), "taken": Run("wide", taken, 0)}
    variants["mup"] = Run("mup", taken, 0)
    seeds = range(arguments.seeds)
    runs = [
        Run(run.variant, run.rate, seed) for seed in seeds for run in variants.values()
    ]
    by_run = dict(zip(runs, trainings.losses(runs), strict=True))
    found: dict[str, Any] = {}
    own: list[float] = []
    for name, run in variants.items():
        losses = [by_run[Run(run.variant, run.rate, seed)] for seed in seeds]
        own = own or losses
        found[name] = {
            "rate": run.rate,
            "losses": losses,
            "mean": statistics.mean(losses),
        }
        line = f"{name:10} rate {run.rate:.6g}: {found[name]['mean']:.4f}"
        if name != "own":
            found[name] |= compared(own, losses)
            line += " ({difference:+.4f}, {low:+.4f} to {high:+.4f}: {verdict})".format(
                **found[name]
            )
        print(line, flush=True)
    import torch

    facts = {
        "benchmark": "transfer_losses",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "steps": arguments.steps,
        "model": COMMON,
        "widths": WIDTHS,
        "margin": MARGIN,
        "grids": {
            name: {f"{rate:.6g}": loss for rate, loss in sorted(grid.items())}
            for name, grid in grids.items()
        },
        "variants": found,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
