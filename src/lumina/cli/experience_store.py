"""The store that the sub-commands of `lumina experience` work on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.state.experience.records import RunRecord
    from lumina.state.experience.store import ExperienceStore


def add_store_option(parser: argparse.ArgumentParser) -> None:
    """Declare which store is meant."""
    parser.add_argument(
        "--experience",
        metavar="FILE",
        help="the experience store; default: LUMINA_EXPERIENCE, or "
        "experience.sqlite in LUMINA_CACHE",
    )


def store_of(args: argparse.Namespace) -> ExperienceStore:
    """The store that was named.

    Raises:
        LuminaError: E005 where it is off.
    """
    from lumina.state.experience.place import store_at

    store = store_at(args.experience)
    if store is None:
        raise LuminaError("E005", "no store is named", "give --experience a file")
    return store


def runs_named(runs: list[RunRecord], named: str) -> list[RunRecord]:
    """The runs of a name, or the one of an id or the beginning of an id.

    Raises:
        LuminaError: E304 where there is none.
    """
    found = [run for run in runs if run.name == named]
    if not found and len(named) >= 4:
        found = [run for run in runs if run.id.startswith(named)]
    if not found:
        raise LuminaError(
            "E304",
            f"the store holds no run {named}",
            "`lumina experience list` shows them",
        )
    return found
