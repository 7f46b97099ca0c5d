"""`lumina adapters combine`: several adapters of LoRA as one folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from lumina.cli.answering import add_adapter_option

SUMMARY = "write several LoRA adapters as one, each by its factor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="the model that they are for: a run or a folder")
    parser.add_argument("folder", help="the new folder, in PEFT's format")
    add_adapter_option(parser)
    parser.add_argument(
        "--rank",
        type=int,
        metavar="N",
        help="most that the result may have; default: the sum, which loses nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder, and say what a lower rank lost."""
    from lumina.errors import LuminaError, shell_path
    from lumina.quantities import count
    from lumina.state.adapters.attached import taken_apart
    from lumina.state.adapters.combining import combined
    from lumina.state.adapters.named import read_named
    from lumina.state.adapters.writing import write_adapter
    from lumina.state.huggingface.staging import require_unused
    from lumina.state.weights import open_weights

    folder = Path(args.folder).expanduser()
    require_unused(folder)
    if not args.adapter:
        raise LuminaError("E005", "no adapter is named", "name them with --adapter")
    weights = open_weights(args.model)
    try:
        plain, _ = taken_apart(weights)
        adapters = read_named(args.adapter, plain.spec)
        one, lost = combined(adapters, folder.name, args.rank)
        write_adapter(one, plain.spec, folder)
    finally:
        weights.close()
    said = "nothing is lost" if not lost else f"the lower rank loses {lost:.2%}"
    print(
        f"{folder}: {count(one.size)} parameters, of rank "
        f"{max(piece.rank for piece in one.pieces.values())}; {said} of the change\n"
        f"next: lumina generate {shell_path(args.model)} --adapter {shell_path(folder)}"
    )
    return 0
