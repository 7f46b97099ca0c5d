"""`lumina bench lr-transfer`: where the best rate lies, by width or depth."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "the best learning rate by width or depth, with and without --lr-transfer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--widths", nargs="+", type=int, default=[32, 64, 128], metavar="N",
        help="hidden sizes; the first is the base; default: 32 64 128",
    )  # fmt: skip
    parser.add_argument(
        "--depths", nargs="+", type=int, default=[2], metavar="N",
        help="layers; one for all widths, or one for each; default: 2",
    )  # fmt: skip
    parser.add_argument(
        "--rates", nargs="+", type=float, metavar="X",
        help="peaks to try; default: the powers of two from 2^-12 to 2^-5",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=100, metavar="N",
        help="steps of each run; default: 100",
    )  # fmt: skip
    parser.add_argument(
        "--modes", nargs="+", default=["none", "mup"], metavar="MODE",
        choices=("none", "mup", "completep"),
        help="none, mup, completep; default: none mup",
    )  # fmt: skip
    parser.add_argument(
        "--optimizer", default="adamw", metavar="TEXT", help="default: adamw"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N",
        help="rows of a step; default: 16",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="auto", metavar="TEXT", help="as of `train`"
    )
    parser.add_argument("--output", metavar="FILE", help="where the JSON goes")
    parser.add_argument(
        "--plot", metavar="FILE", help="where an SVG of the losses goes"
    )


def run(args: argparse.Namespace) -> int:
    """Sweep, and print a line for each shape."""
    from lumina.observe.log_plot import Line, plot
    from lumina.train.lr_transfer import Shape, sweep

    depths = args.depths * len(args.widths) if len(args.depths) == 1 else args.depths
    pairs = zip(args.widths, depths, strict=True)
    shapes = [Shape(width, layers) for width, layers in pairs]
    found = sweep(
        shapes,
        args.rates or [2.0**n for n in range(-12, -4)],
        args.steps,
        args.modes,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
        optimizer=args.optimizer,
        batch_size=args.batch_size,
        precision=args.precision,
    )
    for one in found:
        print(
            f"{one.mode:<10} width {one.shape.width:>5}, {one.shape.layers:>3} layers: "
            f"best rate {one.best:.3g}, loss {one.losses[one.best]:.4f}"
        )
    facts = [
        {
            "mode": one.mode,
            "width": one.shape.width,
            "layers": one.shape.layers,
            "best": one.best,
            "losses": {f"{rate:g}": loss for rate, loss in one.losses.items()},
        }
        for one in found
    ]
    if args.output:
        from pathlib import Path

        Path(args.output).write_text(json.dumps(facts, indent=1) + "\n")
    if args.plot:
        from pathlib import Path

        worst = 1.5 * max(min(one.losses.values()) for one in found)
        lines = [
            Line(
                f"{one.mode} {one.shape.width}x{one.shape.layers}",
                [(rate, loss) for rate, loss in one.losses.items() if loss < worst],
            )
            for one in found
        ]
        title = "Final loss by learning rate"
        Path(args.plot).write_text(plot(title, "learning rate", "loss", lines))
    return 0
