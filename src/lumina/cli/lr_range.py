"""`lumina lr-range`: a short sweep that suggests a learning rate."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.cli.options import add_config_options, config_from_args
from lumina.durable import write_error, write_file
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.train.lr_range import Sweep

FILES = ("lr_range.csv", "lr_range.json", "lr_range.svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the sweep, and those of a configuration."""
    own = parser.add_argument_group("sweep")
    own.add_argument(
        "--from-rate", "--start-lr", type=float, default=1e-6, metavar="X",
        help="the first rate; default: 1e-6",
    )  # fmt: skip
    own.add_argument(
        "--to-rate", "--end-lr", type=float, default=1.0, metavar="X",
        help="the rate of the last step; default: 1",
    )  # fmt: skip
    own.add_argument(
        "--range-steps", "--num-iter", type=int, default=100, metavar="N",
        help="steps; it ends earlier where the loss diverges; default: 100",
    )  # fmt: skip
    own.add_argument(
        "--output", metavar="DIR",
        help="where the table, the plot and the JSON go; default: lr-range/DATE-TIME",
    )  # fmt: skip
    own.add_argument("--json", action="store_true", help="print the JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Sweep, write the files, and print the suggestion; 1 where there is none."""
    config = config_from_args(args)
    folder = _folder(args.output)

    from lumina.observe.console import Console
    from lumina.train.lr_range import swept

    sweep = swept(
        config,
        lowest=args.from_rate,
        highest=args.to_rate,
        steps=args.range_steps,
        console=Console(stream=sys.stderr, live=False),
        tell=lambda text: print(text, file=sys.stderr),
    )
    facts = _facts(sweep)
    _write(folder, sweep, facts)
    found = sweep.suggestion
    if args.json:
        print(json.dumps(facts, indent=2))
    elif found.rate is None:
        print(f"no rate to suggest: {found.how}")
    else:
        print(f"suggested: --learning-rate {found.rate:g}")
        print(f"  {found.how}")
    if not args.json:
        print(f"  table, JSON and plot: {folder}/")
    return int(found.rate is None)


def _folder(named: str | None) -> Path:
    """Where the files go; files of an earlier sweep are not written over."""
    if named is None:
        stem = time.strftime("%Y%m%d-%H%M%S")
        names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        return next(p for name in names if not (p := Path("lr-range", name)).exists())
    folder = Path(named)
    if there := [name for name in FILES if (folder / name).exists()]:
        raise LuminaError(
            "E002",
            f"{folder / there[0]} is there already",
            "name another folder with --output",
        )
    return folder


def _facts(sweep: Sweep) -> dict[str, Any]:
    found = sweep.suggestion
    return {
        "suggested": found.rate,
        "how": found.how,
        "lowest_loss": found.lowest_loss,
        "rate_of_lowest_loss": found.lowest,
        "diverged_at": found.diverged,
        "steps": len(sweep.rates),
        "optimizer": sweep.plan.optimizer,
        "sequences_per_step": sweep.plan.global_batch_size,
        "parameters": sweep.plan.parameters,
        "rates": sweep.rates,
        "losses": [loss if math.isfinite(loss) else None for loss in sweep.losses],
        "smoothed": found.smoothed,
    }


def _write(folder: Path, sweep: Sweep, facts: dict[str, Any]) -> None:
    from lumina.observe.log_plot import Line, plot

    found = sweep.suggestion
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("rate", "loss", "smoothed"))
    for number, (rate, loss) in enumerate(
        zip(sweep.rates, facts["losses"], strict=True)
    ):
        line = found.smoothed[number] if number < len(found.smoothed) else ""
        writer.writerow((repr(rate), "" if loss is None else repr(loss), line))
    count = len(found.smoothed)
    raw = list(zip(sweep.rates[:count], sweep.losses[:count], strict=True))
    marks = [(found.lowest, f"lowest loss {found.lowest:.2g}")]
    if found.rate is not None:
        marks.insert(0, (found.rate, f"suggested {found.rate:.2g}"))
    drawing = plot(
        "Learning-rate range test",
        "learning rate",
        "loss",
        [
            Line("loss", raw, faint=True),
            Line("smoothed", list(zip(sweep.rates, found.smoothed, strict=False))),
        ],
        marks,
    )
    texts = (table.getvalue(), json.dumps(facts, indent=1) + "\n", drawing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(FILES, texts, strict=True):
            write_file(folder / name, text.encode())
    except OSError as error:
        raise write_error(error, folder) from error
