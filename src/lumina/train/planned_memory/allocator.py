"""What PyTorch's CUDA allocator would hand out and take from the device.

It rounds sizes up to 512 bytes, takes segments of 2 MiB, 20 MiB or multiples of 2 MiB
from the device, divides them, and joins neighbours that are free again
(c10/cuda/CUDACachingAllocator.cpp, with its settings as they are by default). One
stream; what was taken from the device is never given back, as in a step that finds
room.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from itertools import count

ROUNDED = 512
SMALL, SMALL_SEGMENT = 2**20, 2 * 2**20
LARGE, LARGE_SEGMENT = 10 * 2**20, 20 * 2**20
SEGMENT_ROUNDED = 2 * 2**20


@dataclass(eq=False)
class _Block:
    """A part of a segment.

    Attributes:
        place: tells blocks of equal size apart: older segments first.
    """

    size: int
    small: bool
    place: tuple[int, int]
    free: bool = False
    before: _Block | None = field(default=None, repr=False)
    after: _Block | None = field(default=None, repr=False)

    @property
    def key(self) -> tuple[int, tuple[int, int]]:
        return self.size, self.place


class CachingAllocator:
    """Bytes handed out and taken from the device, now and at most.

    Attributes:
        allocated: bytes of the blocks that are handed out.
        reserved: bytes of all segments.
        most_allocated: the largest `allocated` since `forget_peaks`.
        most_reserved: the largest `reserved`, likewise.
    """

    def __init__(self) -> None:
        self.allocated = self.reserved = 0
        self.most_allocated = self.most_reserved = 0
        self._free: dict[bool, list[tuple[tuple[int, tuple[int, int]], _Block]]] = {
            True: [],
            False: [],
        }
        self._segments = count()

    def forget_peaks(self) -> None:
        """The largest bytes are those of now."""
        self.most_allocated, self.most_reserved = self.allocated, self.reserved

    def take(self, size: int) -> _Block | None:
        """Hand out this many bytes; None for none."""
        if size <= 0:
            return None
        size = -(-size // ROUNDED) * ROUNDED
        small = size <= SMALL
        pool = self._free[small]
        at = bisect_left(pool, (size, (-1, -1)), key=lambda entry: entry[0])
        block = pool.pop(at)[1] if at < len(pool) else self._segment(size, small)
        block.free = False
        rest = block.size - size
        if rest >= ROUNDED if small else rest > SMALL:
            place = (block.place[0], block.place[1] + size)
            other = _Block(rest, small, place, True, block, block.after)
            if block.after is not None:
                block.after.before = other
            block.after, block.size = other, size
            self._keep(other)
        self.allocated += block.size
        self.most_allocated = max(self.most_allocated, self.allocated)
        return block

    def give(self, block: _Block | None) -> None:
        """Take back what `take` handed out."""
        if block is None:
            return
        self.allocated -= block.size
        before, after = block.before, block.after
        if before is not None and before.free:
            self._drop(before)
            before.size += block.size
            before.after = after
            if after is not None:
                after.before = before
            block = before
        if after is not None and after.free:
            self._drop(after)
            block.size += after.size
            block.after = after.after
            if after.after is not None:
                after.after.before = block
        block.free = True
        self._keep(block)

    def _segment(self, size: int, small: bool) -> _Block:
        """A new segment, as one block."""
        if small:
            taken = SMALL_SEGMENT
        elif size < LARGE:
            taken = LARGE_SEGMENT
        else:
            taken = -(-size // SEGMENT_ROUNDED) * SEGMENT_ROUNDED
        self.reserved += taken
        self.most_reserved = max(self.most_reserved, self.reserved)
        return _Block(taken, small, (next(self._segments), 0))

    def _keep(self, block: _Block) -> None:
        insort(self._free[block.small], (block.key, block), key=lambda entry: entry[0])

    def _drop(self, block: _Block) -> None:
        pool = self._free[block.small]
        at = bisect_left(pool, block.key, key=lambda entry: entry[0])
        assert pool[at][1] is block
        del pool[at]
