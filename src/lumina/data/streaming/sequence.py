"""The rows of streamed text, one after the other, and the cursor between any two.

The cursor holds the place at which the present window begins, how many of its rows
were given, and the one token that a document goes on from. A run that resumes reads
from that place on and makes the same rows, whatever the number of threads, of ranks and
of rows in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.data.data_events import ascii_event, skipped_event
from lumina.data.order import Cursor, RowId, Taken, permutation
from lumina.data.streaming.left_out import TOLD, LeftOut
from lumina.data.streaming.places import Placed, ReadFrom, Where
from lumina.data.streaming.window_rows import Row, WindowRows, rows_of
from lumina.data.streaming.windows import Encode, Window, windows
from lumina.errors import LuminaError

REMOVED = "removed"
"""Where a cursor keeps what `ascii_only` took out; absent where it took out nothing."""


@dataclass(frozen=True)
class StreamOptions:
    """How text is streamed.

    Attributes:
        seq_length: positions of a row.
        window_bytes: bytes of text that are packed and shuffled together.
        threads: that encode.
        seed: with the pass and the window, decides the order of rows.
        in_order: keep the order of the documents.
        first: documents passed over at the start of the run.
        endless: begin again where the data ends.
        fingerprint: names the data, for the order of its rows.
    """

    seq_length: int
    window_bytes: int
    threads: int
    seed: int
    in_order: bool = False
    first: int = 0
    endless: bool = False
    fingerprint: str = ""


@dataclass(frozen=True)
class _Ready:
    """A window whose rows are made."""

    key: tuple[Any, ...]
    window: Window
    rows: WindowRows


class StreamedRows:
    """A sequence of rows without a known number of them.

    Args:
        read: the documents of a pass to learn from. It is given the pass, a place, and
            what to call with records that are left out.
        encode: makes tokens of documents.
        options: how.
        events: gives what has happened in reading since it was last called.
    """

    rows_per_epoch = None

    def __init__(
        self,
        read: ReadFrom,
        encode: Encode,
        options: StreamOptions,
        events: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._events = events
        self._read = read
        self._encode = encode
        self._options = options
        self._ready: _Ready | None = None
        self._coming: Iterator[Window] | None = None
        self._expected: tuple[Any, ...] | None = None

    @property
    def start(self) -> Cursor:
        """Before the first document that is not passed over."""
        return {
            "pass": 0, "place": None, "skip": self._options.first, "window": 0,
            "given": 0, "carry": None, "rows": 0, "documents": 0, "skipped": 0,
        }  # fmt: skip

    def rows_before(self, cursor: Cursor) -> int:
        """All rows so far."""
        return int(cursor["rows"])

    def epochs_before(self, cursor: Cursor) -> float:
        """Passes that are over."""
        return float(cursor["pass"])

    def take(self, cursor: Cursor, count: int) -> Taken:
        """The next `count` rows, or fewer where the only pass ends."""
        begin, now = int(cursor["rows"]), dict(cursor)
        if self._options.endless:
            now.pop("over", None)  # a run that ended goes on with the next pass
        contents: list[Row] = []
        ids: list[RowId] = []
        told: list[dict[str, Any]] = []
        while len(contents) < count and not now.get("over"):
            made = self._at(now)
            order = self._order(now, len(made.rows))
            part = order[now["given"] : now["given"] + count - len(contents)]
            contents += [(made.rows, number) for number in part.tolist()]
            ids += [(now["pass"], now["rows"] + n) for n in range(len(part))]
            now["rows"] += len(part)
            now["given"] += len(part)
            if now["given"] >= len(made.rows):
                first = made.window.left_out.first[: max(TOLD - now["skipped"], 0)]
                told += map(skipped_event, first)
                now = self._behind(now, made)
                if now["place"] is None and now.get(REMOVED):  # the pass is over
                    told.append(ascii_event(now[REMOVED]))
        return Taken(
            begin=begin,
            row_ids=ids,
            cursor=now,
            epoch=float(now["pass"]),
            contents=contents,
            facts=_facts(now),
            events=(*told, *self._events()),
        )

    def _order(self, now: Cursor, rows: int) -> Any:
        """The order of a window's rows."""
        options = self._options
        if options.in_order:
            return np.arange(rows)
        name = f"{options.fingerprint}:{now['window']}"
        return permutation(rows, options.seed, now["pass"], name)

    def _behind(self, now: dict[str, Any], made: _Ready) -> dict[str, Any]:
        """The cursor behind a window, or at the start of the next pass."""
        window = made.window
        now |= {
            "place": window.after,
            "skip": 0,
            "given": 0,
            "window": now["window"] + 1,
            "carry": made.rows.carry,
            "documents": now["documents"] + window.documents,
            "skipped": now["skipped"] + window.left_out.count,
        }
        if window.left_out.characters:
            now[REMOVED] = _more(now.get(REMOVED, {}), window.left_out)
        if window.after is not None:
            return now
        if not now["rows"]:
            raise LuminaError(
                "E105",
                "no document to learn from in all of the data",
                "add data; --eval-fraction 0 holds none of it out",
            )
        now |= {"pass": now["pass"] + 1, "window": 0}
        if not self._options.endless:
            now["over"] = True
        return now

    def _at(self, now: Cursor) -> _Ready:
        """The window at a cursor; read on from where it is, or from its place."""
        key = (now["pass"], now["window"], _plain(now["place"]), now["skip"])
        if self._ready is not None and self._ready.key == key:
            return self._ready
        if self._coming is None or self._expected != key:
            self.close()
            self._coming = self._windows(now)
        window = next(self._coming)
        options = self._options
        rows = rows_of(
            window.encoded,
            now["carry"],
            options.seq_length,
            in_order=options.in_order,
        )
        window.encoded = []
        self._ready = _Ready(key, window, rows)
        self._expected = None
        if window.after is not None:
            after = (now["pass"], now["window"] + 1, _plain(window.after), 0)
            self._expected = after
        return self._ready

    def _windows(self, now: Cursor) -> Iterator[Window]:
        left_out = LeftOut()
        documents = self._read(now["pass"], now["place"], left_out)
        if now["skip"]:
            documents = _behind_first(documents, now["skip"])
        return windows(
            documents,
            self._encode,
            window_bytes=self._options.window_bytes,
            threads=self._options.threads,
            left_out=left_out,
        )

    def close(self) -> None:
        """Release files and threads; the next rows are read from their place on."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.close()  # type: ignore[attr-defined]


def _behind_first(documents: Iterator[Placed], count: int) -> Iterator[Placed]:
    """The documents behind the first ones."""
    begun = 0
    for placed in documents:
        begun += not placed.document.continues
        if begun > count:
            yield placed
    if begun <= count:
        raise LuminaError(
            "E005",
            f"dataset_start_offset {count:,} passes over all {begun:,} documents to "
            "learn from",
            f"pass over at most {max(begun - 1, 0):,}",
        )


def _more(removed: Mapping[str, int], left_out: LeftOut) -> dict[str, int]:
    """What was taken out of the texts of all windows so far."""
    return {
        "characters": removed.get("characters", 0) + left_out.characters,
        "texts": removed.get("texts", 0) + left_out.texts,
    }


def _plain(place: Where | None) -> str:
    return repr(place)


def _facts(now: Cursor) -> dict[str, float]:
    facts = {"data.documents": float(now["documents"])}
    if now["skipped"]:
        facts["data.skipped"] = float(now["skipped"])
    for name, count in now.get(REMOVED, {}).items():
        facts[f"data.removed_{name}"] = float(count)
    return facts
