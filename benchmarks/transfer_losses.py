"""Whether settings that were tuned on a narrow model serve a wide one, by loss.

The narrow model trains once at each pair of a learning rate and a spread of its first
weights (`--init-std`), and so does the wide one, without and with `--lr-transfer mup`.
Neighbours in both grids are a factor of two apart, and grids grow until the best pair
lies at no end. Where settings carry over, the narrow model and the wide one with `mup`
have the same best pair. Then, from the same seeds:

    own        the wide model at the best of its own pairs: what a full search gives
    taken      the wide model at the narrow model's best pair, as it is
    mup        the same pair with `--lr-transfer mup`
    habit      the narrow model's best rate at the usual spread, 0.02, with `mup`

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
    beyond,
    compared,
)

HEAD = 64
COMMON = (
    "--preset debug --no-use-moe --no-tie-embeddings --num-layers 4 --seq-length "
    "256 --gradient-accumulation-steps 1 --no-compile "
    "--tokenizer-vocab-size 4096 --weight-decay 0.1 --lr-scheduler cosine "
    "--warmup-ratio 0.1 --eval-batches 40 --report-samples 0 --save-every-n-batches "
    "0 --no-auto-adjust-lr"
)
MIDDLES = {"narrow": 4e-3, "wide": 5e-4, "mup": 4e-3}
"""Where the rates of each begin: the middle of its grid."""

HABIT = 0.02
"""The spread of first weights in GPT-2, which most models since use at any width."""

Pair = tuple[float, float]
"""A learning rate and a spread of first weights."""


def named(model: str, pair: Pair, seed: int) -> Run:
    """The training of one model at a pair of settings."""
    return Run(f"{model}-{pair[1]:.6g}", pair[0], seed)


class Widths(Trainings):
    """Runs of the narrow and the wide model.

    Args:
        widths: of "narrow" and "wide".
        common: further options of all runs.
        rest: what `Trainings` takes.
    """

    def __init__(self, widths: dict[str, int], common: list[str], *rest: Any) -> None:
        super().__init__(*rest)
        self.widths, self.common = widths, common

    def options(self, run: Run) -> list[str]:
        """The shape, the spread, and what carries a rate over."""
        model, _, spread = run.variant.partition("-")
        width = self.widths["narrow" if model == "narrow" else "wide"]
        found = [
            *(*COMMON.split(), *self.common, "--init-std", spread),
            *("--hidden-size", str(width), "--intermediate-size", str(3 * width)),
            *("--num-heads", str(width // HEAD), "--num-kv-heads", str(width // HEAD)),
        ]
        if model == "mup":
            found += ["--lr-transfer", "mup"]
            found += ["--base-width", str(self.widths["narrow"])]
        return found


def searched(
    trainings: Widths, model: str, rates: int, spreads: int
) -> dict[Pair, float]:
    """Losses of a grid of pairs, and beyond it where the best lies at its end."""
    half = rates // 2
    steps = range(-half, rates - half)
    wanted = [
        (MIDDLES[model] * 2.0**power, HABIT * 2.0**wider)
        for power in steps
        for wider in range(spreads)
    ]
    found: dict[Pair, float] = {}
    while wanted:
        runs = [named(model, pair, TUNING_SEED) for pair in wanted]
        found |= dict(zip(wanted, trainings.losses(runs), strict=True))
        rate, spread = best(found)
        others = beyond({r: loss for (r, s), loss in found.items() if s == spread})
        wider = beyond({s: loss for (r, s), loss in found.items() if r == rate})
        wanted = [(one, spread) for one in others] + [(rate, one) for one in wider]
        wanted = [pair for pair in wanted if pair not in found]
    return found


def best(grid: dict[Pair, float]) -> Pair:
    """The pair of the smallest loss."""
    return min(grid, key=grid.__getitem__)


def main() -> None:
    """Search, compare, print a line for each variant, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="text to train on")
    parser.add_argument("--out", type=Path, default=Path("transfer_losses.json"))
    parser.add_argument("--work", type=Path, default=Path("transfer_losses"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--widths", type=int, nargs=2, default=[128, 1024])
    parser.add_argument("--rates", type=int, default=3, help="rates in a first grid")
    parser.add_argument("--spreads", type=int, default=3, help="spreads in it")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--at-once", type=int, default=6, help="runs side by side")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a step")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    widths = dict(zip(("narrow", "wide"), arguments.widths, strict=True))
    common = ["--batch-size", str(arguments.batch_size)]
    trainings = Widths(
        *(widths, common, arguments.work, arguments.data),
        *(arguments.steps, arguments.at_once),
    )
    # The first run alone makes the tokenizer and the token store that all others read.
    trainings.loss(named("narrow", (MIDDLES["narrow"], HABIT), TUNING_SEED))
    grids = {
        name: searched(trainings, name, arguments.rates, arguments.spreads)
        for name in MIDDLES
    }
    for name, grid in grids.items():
        line = " ".join(
            f"{rate:.6g}/{spread:.6g}:{loss:.4f}"
            for (rate, spread), loss in sorted(grid.items())
        )
        print(f"{name:10} {line}", flush=True)
    taken = best(grids["narrow"])
    usual = {pair: loss for pair, loss in grids["narrow"].items() if pair[1] == HABIT}
    variants = {
        "own": ("wide", best(grids["wide"])),
        "taken": ("wide", taken),
        "mup": ("mup", taken),
        "habit": ("mup", best(usual)),
    }
    seeds = range(arguments.seeds)
    # Two variants may be the same training; it is made once.
    runs = list(
        dict.fromkeys(
            named(*variant, seed) for seed in seeds for variant in variants.values()
        )
    )
    by_run = dict(zip(runs, trainings.losses(runs), strict=True))
    found: dict[str, Any] = {}
    own: list[float] = []
    for name, (model, pair) in variants.items():
        losses = [by_run[named(model, pair, seed)] for seed in seeds]
        own = own or losses
        found[name] = {
            "rate": pair[0],
            "init_std": pair[1],
            "losses": losses,
            "mean": statistics.mean(losses),
        }
        line = f"{name:10} rate {pair[0]:.6g}, first weights {pair[1]:.6g}: "
        line += f"{found[name]['mean']:.4f}"
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
        "model": " ".join([COMMON, *common]),
        "widths": widths,
        "margin": MARGIN,
        "grids": {
            name: {
                f"{rate:.6g}/{spread:.6g}": loss
                for (rate, spread), loss in sorted(grid.items())
            }
            for name, grid in grids.items()
        },
        "variants": found,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
