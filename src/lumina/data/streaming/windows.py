"""Documents -> windows: groups of bounded size that are encoded and packed together.

A window is a pure function of the place at which it begins, so that its place is all a
cursor has to keep of it. Its blocks are encoded on several threads; only a few blocks
are in memory beside the windows in use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from lumina.data.documents import Document, Skipped
from lumina.data.split import document_bytes
from lumina.data.streaming.left_out import LeftOut
from lumina.data.streaming.places import Placed, Where
from lumina.data.tokenise import BLOCK_BYTES, Encoded, no_inner_threads

Part = tuple[Document, bool]
"""A document or a piece of one, and whether the document ends there."""

Encode = Callable[[list[Part]], tuple[list[Encoded], list[Skipped]]]
"""Encodes some parts; also gives what the chat template refused."""


@dataclass
class Window:
    """What is packed together.

    Attributes:
        after: of the first part behind it; None: the pass ends with it.
        encoded: its parts as tokens.
        documents: how many begin in it.
        left_out: what was left out while it was read and encoded.
    """

    after: Where | None = None
    encoded: list[Encoded] = field(default_factory=list)
    documents: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass
class _Block:
    """Parts that are encoded together, and where they stand in their window."""

    place: Where
    parts: list[Part]
    left_out: LeftOut = field(default_factory=LeftOut)
    ends_window: bool = False
    size: int = 0


def windows(
    documents: Iterable[Placed],
    encode: Encode,
    *,
    window_bytes: int,
    threads: int,
    left_out: LeftOut,
) -> Iterator[Window]:
    """The windows of what is left of a pass; the same for any number of threads.

    Args:
        documents: those to learn from, from some place on.
        encode: makes tokens of a block.
        window_bytes: a window ends with the part that fills it up to this.
        threads: encode this many blocks at a time; 0: on the calling thread.
        left_out: counts what is left out in reading, and is emptied here.
    """
    window, full = Window(), False
    blocks = _blocks(documents, window_bytes, left_out)
    for block, (encoded, refused) in _in_order(blocks, encode, threads):
        if full:
            window.after = block.place
            yield window
            window = Window()
        window.encoded += encoded
        window.documents += sum(not part.continues for part, _ in block.parts)
        window.left_out.take(block.left_out)
        for record in refused:
            window.left_out.skip(record)
        full = block.ends_window
    window.left_out.take(left_out)
    yield window


def _blocks(
    documents: Iterable[Placed], window_bytes: int, left_out: LeftOut
) -> Iterator[_Block]:
    """Blocks of the documents; the last one of each window says so."""
    block: _Block | None = None
    filled = 0
    waiting: Placed | None = None

    def add(placed: Placed, last: bool) -> _Block | None:
        """Put a part into the block; the block, where it is full."""
        nonlocal block, filled
        if block is None:
            block = _Block(placed.place, [])
        block.parts.append((placed.document, last))
        size = document_bytes(placed.document) + 64  # short ones cost something too
        block.size += size
        filled += size
        block.ends_window = filled >= window_bytes
        if block.size < BLOCK_BYTES and not block.ends_window:
            return None
        full, block = block, None
        filled = 0 if full.ends_window else filled
        full.left_out.take(left_out)
        return full

    for placed in documents:
        if waiting is not None and (
            full := add(waiting, not placed.document.continues)
        ):
            yield full
        waiting = placed
    if waiting is not None and (full := add(waiting, True)):
        yield full
    if block is not None:
        yield block


def _in_order(
    blocks: Iterator[_Block], encode: Encode, threads: int
) -> Iterator[tuple[_Block, tuple[list[Encoded], list[Skipped]]]]:
    """Every block with what it is encoded to, in order."""
    if threads == 0:
        for block in blocks:
            yield block, encode(block.parts)
        return
    pool = ThreadPoolExecutor(threads, "lumina-stream")
    running: deque[tuple[_Block, Future[tuple[list[Encoded], list[Skipped]]]]] = deque()
    try:
        with no_inner_threads():
            for block in blocks:
                running.append((block, pool.submit(encode, block.parts)))
                if len(running) > threads + 1:
                    first, encoded = running.popleft()
                    yield first, encoded.result()
            while running:
                first, encoded = running.popleft()
                yield first, encoded.result()
    finally:
        # Waiting for what is begun would hold up the end of a run.
        pool.shutdown(wait=False, cancel_futures=True)
