"""A piece of a bundle: a measurement whose result is one file of JSON.

Lumina's own are the files of `lumina.train.prove.pieces`, named like their piece; one
from elsewhere registers itself in a plug-in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
        warm_up: steps before those that are timed.
        steps: timed steps, and timed steps of each turn beside a peer.
        blocks: of turns beside a peer.
        loss_steps: steps whose losses are compared with the reference's.
        seeds: of those.
        rounds: how often each op is timed.
    """

    warm_up: int = 4
    steps: int = 10
    blocks: int = 3
    loss_steps: int = 40
    seeds: int = 3
    rounds: int = 10


@dataclass
class Asked:
    """What a piece is asked for.

    Attributes:
        config: of the training.
        amounts: how much.
        against: peers; empty: those that are installed and can do it.
        folder: of the bundle, for further files.
        done: the results of the pieces before it, by name.
        tell: shows a line of progress.
        stopped: asked between steps; once true, the piece ends without a result.
    """

    config: Config
    amounts: Amounts
    against: tuple[str, ...]
    folder: Path
    tell: Callable[[str], None]
    stopped: Callable[[], bool]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A piece of a bundle.

    Attributes:
        name: of its file, NAME.json.
        run: measures; gives plain values, or None where it was interrupted.
        page: its part of the page, as lines of Markdown.
        after: pieces whose results it reads.
    """

    name: str
    run: Callable[[Asked], dict[str, Any] | None]
    page: Callable[[dict[str, Any]], list[str]]
    after: tuple[str, ...] = ()


PIECES = FoundByName[Piece]("lumina.train.prove.pieces")
"""Every piece whose file has been imported, by name."""

ORDER = (
    "environment",
    "ceilings",
    "speed",
    "profile",
    "floor",
    "losses",
    "ops",
    "peers",
)
"""Lumina's own, as they are measured and shown; others follow."""


def register_piece(piece: Piece) -> Piece:
    """Enter a piece in the table."""
    PIECES[piece.name] = piece
    return piece


def chosen_pieces(names: tuple[str, ...]) -> list[Piece]:
    """The pieces of these names, or all, with those whose results they read.

    Raises:
        LuminaError: E005 for a piece that there is not.
    """
    known = [*ORDER, *(name for name in PIECES.known() if name not in ORDER)]
    wanted = set(names or known)
    for name in reversed(known):
        piece = PIECES.found(name)
        if name in wanted and piece is not None:
            wanted |= set(piece.after)
    if unknown := sorted(wanted - set(known)):
        raise LuminaError(
            "E005", f"there is no piece {unknown[0]!r}", f"choose {', '.join(known)}"
        )
    found = [PIECES.found(name) for name in known if name in wanted]
    return [piece for piece in found if piece is not None]
