"""`lumina profile data`: seconds of reading, making tokens, packing, and waiting."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.train.profiling.data import DataProfile

SUMMARY = "seconds of each stage from files to batches, and what a step waits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a training, and how much is measured."""
    from lumina.cli.options import add_config_options
    from lumina.cli.profiling import STEPS, add_output

    group = add_output(parser)
    group.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="X",
        help="read files for so long at most (default 5)",
    )
    group.add_argument(
        "--step-seconds",
        type=float,
        metavar="X",
        help="how long a step takes; default: as the plan expects; --steps: how many "
        f"are made and waited for ({STEPS})",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 130 where Ctrl-C ended it, with what was measured."""
    import sys

    from lumina.cli.answering import Interruptible
    from lumina.cli.options import config_from_args
    from lumina.cli.profiling import STEPS, at_least, folder_for, tell, write_figures
    from lumina.errors import LuminaError
    from lumina.observe.console import Console
    from lumina.train.profiling.data import profile_data

    config = config_from_args(args)
    steps = at_least("steps", config.train.steps or STEPS, 2)
    for name in ("seconds", "step_seconds"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise LuminaError("E005", f"{name} is {value:g}", "give 0 or more")
    folder = folder_for("data", args.output)
    with Interruptible() as interruption:
        found = profile_data(
            config,
            steps=steps,
            seconds=args.seconds,
            step_seconds=args.step_seconds,
            console=Console(stream=sys.stderr, live=False),
            stopped=lambda: interruption.asked,
            tell=tell,
        )
    write_figures(folder, found.to_dict())
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print(_text(found))
        print(f"\nfigures: {folder / 'profile.json'}")
    return 130 if found.interrupted else 0


def _text(found: DataProfile) -> str:
    from lumina.cli.profiling import milliseconds
    from lumina.cli.text import table
    from lumina.quantities import rate

    rows = [
        [
            stage.name,
            milliseconds(stage.seconds),
            f"{rate(stage.rate)} {stage.unit}/s",
            stage.note,
        ]
        for stage in found.stages
    ]
    lines = [table(("stage", "time", "rate", ""), rows, right="time rate")]
    lines += ["", "what to try:", *(f"- {text}" for text in found.what_to_try)]
    return "\n".join(lines)
