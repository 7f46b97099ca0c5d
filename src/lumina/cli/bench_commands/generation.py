"""`lumina bench generation`: the earlier name of `lumina bench decode`."""

from __future__ import annotations

from lumina.cli.bench_commands.decode import add_arguments, run

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "the earlier name of `lumina bench decode`"
