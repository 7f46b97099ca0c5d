"""`lumina bench train`: how fast a training is here, alone or beside other trainers."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumina.config import Config

SUMMARY = "tokens a second of a training, alone or beside other trainers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a training, and how it is measured."""
    from lumina.cli.options import add_config_options

    group = parser.add_argument_group("measurement")
    for flag, default, text in (
        ("--warm-up", 4, "steps before those that are timed"),
        ("--blocks", 3, "with --against: blocks of four turns, A B B A"),
    ):
        group.add_argument(
            flag, type=int, default=default, metavar="N",
            help=f"{text} (default {default}); --steps: timed ones (10)",
        )  # fmt: skip
    group.add_argument(
        "--synthetic",
        action="store_true",
        help="train on random tokens; so it does where no data is named",
    )
    group.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="PEER",
        help="other trainers to run in turn on the same weights and rows: "
        "transformers, liger, torchtitan; transformers+compile adds torch.compile, "
        "+checkpointing computes activations again. Both have to give the same losses "
        "first",
    )
    group.add_argument("--out", metavar="FILE", help="write the results as JSON, too")
    group.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 130 where Ctrl-C ended it, with what was measured."""
    from lumina.cli.options import config_from_args
    from lumina.cli.profiling import at_least

    config = config_from_args(args)
    at_least("warm-up", args.warm_up, 0)
    at_least("blocks", args.blocks, 1)
    steps = at_least("steps", config.train.steps or 10, 1)
    found = (
        _against(args, config, steps) if args.against else _alone(args, config, steps)
    )
    text = json.dumps(found, indent=1)
    if args.out:
        from pathlib import Path

        Path(args.out).write_text(text + "\n")
    if args.json:
        print(text)
    else:
        from lumina.train.bench import page

        print(page.compared(found) if args.against else page.alone(found))
    return 130 if found["interrupted"] else 0


def _alone(args: argparse.Namespace, config: Config, steps: int) -> dict[str, Any]:
    import sys

    from lumina.cli.answering import Interruptible
    from lumina.data.kinds import names_data
    from lumina.ending import closed_after
    from lumina.observe.console import Console
    from lumina.train.bench.rows import random_feed
    from lumina.train.bench.training import measure_training
    from lumina.train.profiling.session import Session

    synthetic = args.synthetic or not names_data(config)
    session = Session(
        config,
        args.warm_up + steps,
        Console(stream=sys.stderr, live=False),
        random_feed(config.get("seed")) if synthetic else None,
    )
    with closed_after(session.close), Interruptible() as interruption:
        return measure_training(
            session,
            warm_up=args.warm_up,
            steps=steps,
            synthetic=synthetic,
            stopped=lambda: interruption.asked,
        )


def _against(args: argparse.Namespace, config: Config, steps: int) -> dict[str, Any]:
    from lumina.cli.answering import Interruptible
    from lumina.cli.profiling import tell
    from lumina.train.bench.against import compare_trainers

    with Interruptible() as interruption:
        return compare_trainers(
            config,
            args.against,
            synthetic=args.synthetic,
            warm_up=args.warm_up,
            blocks=args.blocks,
            steps=steps,
            tell=tell,
            stopped=lambda: interruption.asked,
        )
