"""`lumina adapters merge`: a run whose weights contain what adapters change."""

from __future__ import annotations

import argparse

from lumina.cli.adapter_runs import add_run_arguments, write_run_changed

SUMMARY = "make a run of a model with adapters merged into it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser, "a run, a checkpoint or an exported folder")


def run(args: argparse.Namespace) -> int:
    """Merge in float32, write the run, and say what merging changed and lost."""
    return write_run_changed(args, "merge")
