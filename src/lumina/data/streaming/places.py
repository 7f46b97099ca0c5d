"""Documents with the places from which reading can go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lumina.data.documents import Document
from lumina.data.streaming.left_out import LeftOut

Where = list[Any]
"""The place of a document as plain JSON; only what reads the documents knows it."""


class Placed(NamedTuple):
    """A document, or a piece of one, and its place."""

    place: Where
    document: Document


ReadFrom = Callable[[int, Where | None, LeftOut], Iterator[Placed]]
"""Reads the documents of a pass (its number is given) from a place on; None: all. What
it leaves out, it counts in its last argument."""
