"""What `lumina adapters merge` and `unmerge` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from lumina.cli.answering import add_adapter_option


def add_run_arguments(parser: argparse.ArgumentParser, model: str) -> None:
    """Declare the model, the new run and the adapters."""
    parser.add_argument("model", help=model)
    parser.add_argument("run", help="the new run directory")
    add_adapter_option(parser)
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint, not the newest"
    )
    parser.add_argument(
        "--ema", action="store_true", help="the averaged weights, where a run kept them"
    )


def write_run_changed(
    args: argparse.Namespace, direction: Literal["merge", "unmerge"], codec: str = ""
) -> int:
    """Write the run, and say what it changed and lost.

    Args:
        args: of the command line.
        direction: of the change.
        codec: to whose values the matrices are rounded, or "".
    """
    from lumina.errors import LuminaError, shell_path
    from lumina.state.adapters.attached import taken_apart
    from lumina.state.adapters.merged_run import write_changed
    from lumina.state.adapters.named import read_named
    from lumina.state.huggingface.staging import require_unused
    from lumina.state.weights import open_weights

    target = Path(args.run).expanduser()
    require_unused(target)  # before gigabytes are read
    weights = open_weights(args.model, "best" if args.best else "latest", ema=args.ema)
    try:
        weights, own = taken_apart(weights)
        adapters = [*own, *read_named(args.adapter, weights.spec)]
        if not adapters:
            raise LuminaError(
                "E005",
                f"{args.model} has no adapter, and no other is named",
                "name the folder of one with --adapter",
            )
        cost = write_changed(weights, adapters, target, direction, codec)
    finally:
        weights.close()
    run = shell_path(target)
    print(f"{target}: {cost.in_words()}\nnext: lumina generate {run} --prompt 'Once'")
    return 0
