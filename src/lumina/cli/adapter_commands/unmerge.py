"""`lumina adapters unmerge`: a run whose weights no longer contain adapters."""

from __future__ import annotations

import argparse

from lumina.cli.adapter_runs import add_run_arguments, write_run_changed

SUMMARY = "make a run of a merged model with adapters taken out of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser, "a run or a folder that the adapters were merged into")


def run(args: argparse.Namespace) -> int:
    """Subtract in float32, write the run, and say what that changed and lost."""
    return write_run_changed(args, "unmerge")
