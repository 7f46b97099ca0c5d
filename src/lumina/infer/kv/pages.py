"""Blocks of tokens in one pool, handed to rows and taken back (PagedAttention).

After Kwon et al., 2023, arXiv:2309.06180: a row of any length holds whole blocks, which
lie anywhere; rows that begin alike hold the same blocks; what a row gives back serves
any other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from lumina.infer.kv.kept import Keeping, Kept
from lumina.infer.kv.settings import BLOCK

ROOT = 0
"""Serial number of what comes before the first block of a row."""

Content = tuple[int, tuple[int, ...]]
"""Serial number of the block before, and the tokens of a block."""


class Pool:
    """The blocks of all layers, and which of them are in use.

    Block i of a layer is the tokens `i * block` to `(i + 1) * block` of its keys and of
    its values. A full block whose tokens are known can be found again by them and by
    the block before it, as long as no other use has overwritten it.

    Args:
        keeping: the number format and the place.
        block: tokens of a block.
        limit: most blocks; None: as many as are asked for.
        spare: memory for one block more, behind all others, that no row ever holds.
    """

    def __init__(
        self,
        keeping: Keeping,
        block: int = BLOCK,
        limit: int | None = None,
        spare: bool = False,
    ) -> None:
        self.keeping, self.block, self.limit = keeping, block, limit
        self.spare = spare
        self._holders: list[int] = []  # rows that hold each block
        self._free: list[int] = []
        self._idle: OrderedDict[int, None] = OrderedDict()  # known, held by no row
        self._known: dict[Content, int] = {}
        self._content: dict[int, Content] = {}
        self._serials: dict[int, int] = {}
        self._last_serial = ROOT
        self._layers: dict[int, tuple[Kept, Kept]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, in use or not."""
        return sum(kept.nbytes for pair in self._layers.values() for kept in pair)

    @property
    def blocks(self) -> int:
        """Blocks for which there is memory."""
        return len(self._holders)

    @property
    def in_use(self) -> int:
        """Blocks that rows hold."""
        return self.blocks - len(self._free) - len(self._idle)

    @property
    def available(self) -> int | None:
        """Blocks that can be taken; None: any number."""
        return None if self.limit is None else self.limit - self.in_use

    def reserve(self, blocks: int) -> None:
        """Have memory for this many blocks at once."""
        if self.limit is not None:
            blocks = min(blocks, self.limit)
        self._free += range(self.blocks, blocks)
        self._holders += [0] * (blocks - self.blocks)

    def take(self) -> int:
        """A block for one row; what it held is forgotten.

        Raises:
            MemoryError: rows hold all that there may be; look at `available` before.
        """
        if not self._free and (self.limit is None or self.blocks < self.limit):
            self.reserve(self.blocks + self.blocks // 4 + 1)
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            self.forget(block)
        else:
            raise MemoryError(f"all {self.limit} blocks of the cache are in use")
        self._holders[block] = 1
        return block

    def share(self, block: int) -> None:
        """Let one more row hold a block."""
        self._idle.pop(block, None)
        self._holders[block] += 1

    def release(self, block: int) -> None:
        """A row holds a block no longer."""
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if block in self._content:
            self._idle[block] = None
        else:
            self._free.append(block)

    def shared(self, block: int) -> bool:
        """Whether more than one row holds a block."""
        return self._holders[block] > 1

    def find(self, content: Content) -> int | None:
        """The block that holds these tokens behind that block, or None."""
        return self._known.get(content)

    def know(self, block: int, content: Content) -> None:
        """A full block can be found by its content; the first one with it is kept."""
        if content not in self._known:
            self._last_serial += 1
            self._known[content] = block
            self._content[block] = content
            self._serials[block] = self._last_serial

    def serial(self, content: Content) -> int:
        """A number of known content that no other content ever gets."""
        return self._serials[self._known[content]]

    def forget(self, block: int) -> None:
        """A block can no longer be found by its content."""
        content = self._content.pop(block, None)
        if content is not None:
            del self._known[content], self._serials[block]

    def move(self, source: int, target: int) -> None:
        """Copy a block of every layer to another."""
        for pair in self._layers.values():
            for kept in pair:
                self._grow(kept)
                kept.move(self._tokens(source), self._tokens(target))

    def layer(self, index: int, k: Tensor, v: Tensor) -> tuple[Kept, Kept]:
        """Keys and values of a layer, with room for every block there is.

        Args:
            index: of the layer.
            k: new keys [B, K, s, width], of the type and on the device to keep.
            v: new values, likewise.
        """
        if index not in self._layers:
            keys, values = (Kept(new[:1], 0, self.keeping) for new in (k, v))
            self._layers[index] = keys, values
        for kept in self._layers[index]:
            self._grow(kept)
        return self._layers[index]

    def held(self, index: int) -> tuple[Kept, Kept]:
        """Keys and values of a layer that has been written to."""
        return self._layers[index]

    def holds(self, index: int) -> bool:
        """Whether a layer has been written to."""
        return index in self._layers

    def fork(self, index: int, source: int) -> None:
        """Begin a layer with all blocks of another."""
        keys, values = self._layers[source]
        self._layers[index] = keys.copy(), values.copy()

    def _grow(self, kept: Kept) -> None:
        kept.grow((self.blocks + self.spare) * self.block, kept.capacity)

    def _tokens(self, block: int) -> slice:
        return slice(block * self.block, (block + 1) * self.block)


class Row:
    """One text in a pool: its block table.

    Attributes:
        blocks: of its tokens in order; None where a window has left one behind.
        length: tokens that are in the cache.
        tokens: those that are known by their ids, from the first on.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.blocks: list[int | None] = []
        self.length = 0
        self.tokens: list[int] = []
        self._serials: list[int] = []  # of the known blocks at the beginning

    def begin(self, prompt: Sequence[int]) -> int:
        """Take over the blocks that an earlier row of the same beginning left.

        Args:
            prompt: the tokens to come. The last one is never taken over: its output
                is needed.

        Returns:
            Tokens that need not be read again.
        """
        size, parent = self._pool.block, ROOT
        for start in range(0, len(prompt) - size, size):
            content = parent, tuple(prompt[start : start + size])
            block = self._pool.find(content)
            if block is None:
                break
            self._pool.share(block)
            parent = self._pool.serial(content)
            self.blocks.append(block)
            self._serials.append(parent)
        self.length = len(self.blocks) * size
        self.tokens = list(prompt[: self.length])
        return self.length

    def needed(self, new: int) -> int:
        """Blocks that this many more tokens take from the pool, at most."""
        size = self._pool.block
        more = -(-(self.length + new) // size) - len(self.blocks)
        inside = self.length % size and self._pool.shared(self._last())
        return more + bool(inside)

    def extend(self, new: int) -> int:
        """Go on by this many coming tokens; returns where the first one comes.

        Raises:
            MemoryError: as of `reserve`.
        """
        self.reserve(new)
        begin, self.length = self.length, self.length + new
        return begin

    def reserve(self, new: int) -> None:
        """Take the blocks of this many coming tokens.

        Raises:
            MemoryError: as of `Pool.take`; the row is as it was then, but for blocks
                taken, which serve a later try.
        """
        self.settle()
        pool, size = self._pool, self._pool.block
        if self.length % size:
            old = self._last()
            if pool.shared(old):
                block = pool.take()
                pool.move(old, block)
                pool.release(old)
                self.blocks[self.length // size] = block
            else:
                pool.forget(old)  # it is about to hold something else
        while len(self.blocks) * size < self.length + new:
            self.blocks.append(pool.take())

    def settle(self) -> None:
        """Let full blocks of known tokens be found by other rows.

        Called once every layer has written what was read last.
        """
        size = self._pool.block
        known = min(len(self.tokens), self.length)
        while (start := len(self._serials) * size) + size <= known:
            block = self.blocks[len(self._serials)]
            if block is None:
                return  # a window has passed over it
            parent = self._serials[-1] if self._serials else ROOT
            content = parent, tuple(self.tokens[start : start + size])
            self._pool.know(block, content)
            self._serials.append(self._pool.serial(content))

    def shorten(self, length: int) -> None:
        """Forget all but the first tokens."""
        size = self._pool.block
        kept = -(-length // size)
        for block in reversed(self.blocks[kept:]):  # a beginning serves most rows
            if block is not None:
                self._pool.release(block)
        self.blocks = self.blocks[:kept]
        self._serials = self._serials[: length // size]
        self.tokens = self.tokens[:length]
        self.length = length

    def leave_behind(self, oldest: int) -> None:
        """Give back the blocks whose tokens all come before position `oldest`."""
        for place in range(min(oldest // self._pool.block, len(self.blocks))):
            block = self.blocks[place]
            if block is not None:
                self._pool.release(block)
                self.blocks[place] = None

    @property
    def first(self) -> int:
        """The first token whose block is still held."""
        gone = sum(block is None for block in self.blocks)
        return gone * self._pool.block

    def end(self, whole: bool = True) -> None:
        """Give all blocks back.

        Args:
            whole: every layer has written what was read last; it can still be found.
        """
        if whole:
            self.settle()
        self.shorten(0)

    def _last(self) -> int:
        block = self.blocks[self.length // self._pool.block]
        assert block is not None
        return block
