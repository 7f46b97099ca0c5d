"""`lumina adapters merge`: a run whose weights contain what adapters change."""

from __future__ import annotations

import argparse

from lumina.cli.adapter_runs import add_run_arguments, write_run_changed

CODECS = ("nf4", "nf4_double", "int8", "int4", "fp8")
"""Names of `lumina.ops.low_bits`."""

SUMMARY = "make a run of a model with adapters merged into it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser, "a run, a checkpoint or an exported folder")
    parser.add_argument(
        "--requantize",
        metavar="CODEC",
        choices=CODECS,
        default="",
        help="round the merged matrices to the values of few bits: "
        f"{', '.join(CODECS)}; says what of the change that loses; default: float32",
    )


def run(args: argparse.Namespace) -> int:
    """Merge in float32, write the run, and say what merging changed and lost."""
    return write_run_changed(args, "merge", args.requantize)
