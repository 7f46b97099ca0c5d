"""`lumina checkpoints consolidate`: all weights of a checkpoint in one file."""

from __future__ import annotations

import argparse

SUMMARY = "write the weights of a checkpoint into one safetensors file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", help="a checkpoint, or a run (its newest)")
    parser.add_argument("file", help="the safetensors file to write; must be new")
    parser.add_argument(
        "--ema",
        action="store_true",
        help="the moving average of the weights in place of the weights",
    )


def run(args: argparse.Namespace) -> int:
    """Write it, and say how much."""
    from lumina.quantities import byte_size
    from lumina.state.inspection import consolidate, one_checkpoint

    path = one_checkpoint(args.checkpoint)
    tensors, size = consolidate(path, args.file, average=args.ema)
    print(f"{args.file}: {tensors} tensors of {path}, {byte_size(size)}")
    return 0
