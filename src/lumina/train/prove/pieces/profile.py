"""Where the time of a step goes: by part, and by group of operations."""

from __future__ import annotations

from typing import Any

from lumina.train.profiling.training import TRACE, profile_training
from lumina.train.prove.groups import grouped
from lumina.train.prove.markdown import milliseconds, table
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import session_of

TRACED = 2
"""Steps whose operations are recorded."""


def run(asked: Asked) -> dict[str, Any] | None:
    """Time the parts of steps, then trace two."""
    with session_of(asked) as session:
        found = profile_training(
            session,
            warm_up=asked.amounts.warm_up,
            steps=min(asked.amounts.steps, 5),
            traced=TRACED,
            folder=asked.folder,
            stopped=asked.stopped,
            tell=lambda text: None,
        )
    if found.interrupted:
        return None
    facts = found.to_dict()
    return facts | {"groups": grouped(facts["operations"]), "trace": TRACE}


def page(found: dict[str, Any]) -> list[str]:
    """The parts and the groups."""
    parts = [
        [row["name"], milliseconds(row["median"]), f"{row['share']:.1%}"]
        for row in found["phases"]
    ]
    groups = [
        [
            row["group"],
            milliseconds(row["seconds"]),
            f"{row['share']:.1%}",
            "; ".join(f"`{name}`" for name in row["longest"]),
        ]
        for row in found["groups"]
    ]
    busy = found["busy"]
    return [
        *table(("part of a step", "median", "share"), parts),
        *table(("operations", "a step", "share", "the longest"), groups),
        f"Traced: {found['traced']} steps"
        + ("" if busy is None else f", the GPU busy for {busy:.0%} of their time")
        + f"; the trace is `{found['trace']}`. Operations are grouped by their "
        "names.",
        "",
    ]


register_piece(Piece("profile", run, page))
