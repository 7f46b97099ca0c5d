"""`lumina adapters convert`: the adapter of a run as a folder in PEFT's format."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write the adapter of a run, or another folder, in PEFT's format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", help="a run that trained an adapter; or a folder with one"
    )
    parser.add_argument("folder", help="the new folder")
    parser.add_argument(
        "--model",
        metavar="RUN",
        help="the model that a folder's adapter is for; a run knows its own",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="of a run with several adapters, the one to write",
    )
    parser.add_argument(
        "--base",
        metavar="PATH",
        help="what the folder names as the model it belongs to; default: what is known",
    )
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint, not the newest"
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder, and say how to load it."""
    from dataclasses import replace

    from lumina.errors import LuminaError, shell_path
    from lumina.quantities import count
    from lumina.state.adapters.attached import taken_apart
    from lumina.state.adapters.reading import is_adapter_folder, read_adapter
    from lumina.state.adapters.writing import write_adapter
    from lumina.state.huggingface.staging import require_unused
    from lumina.state.weights import open_weights

    require_unused(Path(args.folder).expanduser())
    if is_adapter_folder(args.source) != bool(args.model):
        raise LuminaError(
            "E005",
            f"{args.source} is {'a folder' if not args.model else 'a run'}, which "
            f"{'needs' if not args.model else 'takes no'} --model",
            "a folder with an adapter does not say the shape of its model",
        )
    weights = open_weights(args.model or args.source, "best" if args.best else "latest")
    try:
        plain, found = taken_apart(weights)
        adapters = [one for one, _ in found]
        if args.model:
            adapters = [read_adapter(args.source, plain.spec)]
        named = [one for one in adapters if args.name in (None, one.name)]
        if len(named) != 1:
            known = ", ".join(one.name for one in adapters) or "none"
            raise LuminaError(
                "E005",
                f"{args.source} has the adapters {known}",
                "name one of them with --name",
            )
        one = replace(named[0], name=Path(args.folder).name)
        write_adapter(one, plain.spec, args.folder, base=args.base)
    finally:
        weights.close()
    print(
        f"{args.folder}: {one.method}, {count(one.size)} parameters\n"
        f"next: lumina generate MODEL --adapter {shell_path(args.folder)}\n"
        f"      with PEFT: PeftModel.from_pretrained(model, '{args.folder}')"
    )
    return 0
