"""`lumina prove`: a bundle that says how fast and how exact training is here."""

from __future__ import annotations

import argparse

NUMBERS = {
    "warm-up": (4, 0, "steps before those that are timed"),
    "timed-steps": (10, 1, "steps that are timed, and of each turn beside a peer"),
    "blocks": (3, 2, "blocks of four turns, A B B A, beside a peer"),
    "loss-steps": (40, 1, "steps whose losses are compared with the reference's"),
    "seeds": (3, 2, "seeds of those"),
    "rounds": (10, 1, "how often each op is timed"),
}
"""Option -> default, least, help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a training, and how much is measured."""
    from lumina.cli.options import add_config_options

    group = parser.add_argument_group("bundle")
    group.add_argument(
        "--out",
        default="bundle",
        metavar="DIR",
        help="the folder of the bundle; the same command goes on with one that is not "
        "whole (default bundle)",
    )
    group.add_argument(
        "--pieces",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these, and what they rest on; default: environment ceilings speed "
        "profile floor losses ops peers",
    )
    group.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="PEER",
        help="peers, as of `lumina bench train`; default: those that are installed",
    )
    for name, (default, _, text) in NUMBERS.items():
        group.add_argument(
            f"--{name}", type=int, default=default, metavar="N",
            help=f"{text} (default {default})",
        )  # fmt: skip
    group.add_argument(
        "--tar", action="store_true", help="pack the folder as DIR.tar.gz, too"
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure what is not done; 130 where Ctrl-C ended it, 1 where a piece failed."""
    from pathlib import Path

    from lumina.cli.answering import Interruptible
    from lumina.cli.options import config_from_args
    from lumina.cli.profiling import at_least, tell
    from lumina.model.registry import load_plugins
    from lumina.train.prove.bundle import PAGE, Bundle
    from lumina.train.prove.piece import Amounts, Asked, chosen_pieces

    config = config_from_args(args)
    numbers = {
        name: at_least(name, getattr(args, name.replace("-", "_")), least)
        for name, (_, least, _) in NUMBERS.items()
    }
    amounts = Amounts(
        warm_up=numbers["warm-up"],
        steps=numbers["timed-steps"],
        blocks=numbers["blocks"],
        loss_steps=numbers["loss-steps"],
        seeds=numbers["seeds"],
        rounds=numbers["rounds"],
    )
    load_plugins(config.parts.plugins)
    pieces = chosen_pieces(tuple(args.pieces))
    folder = Path(args.out)
    bundle = Bundle(folder, config, amounts, args.against)
    with Interruptible() as interruption:
        asked = Asked(
            config,
            amounts,
            tuple(args.against),
            folder,
            tell,
            lambda: interruption.asked,
        )
        failed = bundle.measure(pieces, asked)
    whole = bundle.write_page(pieces, failed)
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    print(f"{folder / PAGE}: {'whole' if whole else 'not whole yet'}")
    if interruption.asked and not whole:
        print("the same command goes on with the pieces that are not done")
        return 130
    if args.tar and whole:
        print(bundle.pack())
    return 0 if whole else 1
