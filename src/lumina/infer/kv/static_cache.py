"""Keys and values in memory of fixed shape, at places that the device itself works out.

Position p of a row lies in slot p, or in a ring where a sliding window lets old keys
go, so a row's keys lie alike whatever other rows are beside it. Where new keys go and
what a query sees follow from one tensor, the next position of each row. The host is
asked nothing, so a step can be recorded as a CUDA graph and run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lumina.infer.kv.chosen_slots import ChosenSlots
from lumina.infer.kv.kept import Keeping, Kept, plainly
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.masks import in_reach

SMALLEST = 64
"""Slots allocated at first when nothing is said."""

SPAN = 256
"""Least slots that a recorded step reads; more by doubling."""


class StaticCache:
    """The cache of `lumina.model.cache_protocol.Cache` whose steps have fixed shapes.

    Rows of different length are read padded at the left: padding has positions below 0,
    whose keys go to a slot behind all others that nothing sees.

    Args:
        rows: B, sequences decoded together.
        device: of the network.
        window: 0, or the sliding window in tokens; then memory is bounded by it.
        beyond: what stays visible beyond the window. The sinks of a row have slots of
            their own; with dilation, all keys are kept.
        padding: [B] int64, columns of padding at the left of each row; default: none.
        capacity: positions to have slots for at once; a full cache grows by doubling.
        keeping: the number format; None: as computed.
        at_once: most columns of a pass behind a ring's window.
        positions_below: steps of fixed shape give out no larger position, such as the
            length of a table of positions: a row whose answer is over stays among them.
        apart: every row is read by itself, so that what it gives does not depend on
            the others to the last bit; then there is no padding.

    Attributes:
        length: columns seen so far, padding included.
        fixed_shapes: no shape may depend on what tensors hold now.
        span: slots that a pass reads; 0: those in use.
        recorded: what was recorded over this memory; None once the memory has moved.
    """

    def __init__(
        self,
        rows: int,
        device: torch.device | str = "cpu",
        *,
        window: int = 0,
        beyond: Beyond = NOTHING,
        padding: Tensor | None = None,
        capacity: int = 0,
        keeping: Keeping | None = None,
        at_once: int = 64,
        positions_below: int | None = None,
        apart: bool = False,
    ) -> None:
        self.rows = rows
        self.apart = apart
        self._own = [0] * rows  # columns of each row, where they are apart
        self.length = 0
        self.fixed_shapes = False
        self.span = 0
        self.recorded: Any = None
        self._sight = window, beyond
        self._ring = bool(window) and not beyond.dilation
        self._sinks = beyond.sinks if self._ring else 0
        self._most = self._sinks + window + at_once - 1 if self._ring else 0
        self._below = positions_below
        self._keeping = keeping or plainly()
        self.slots = self._bounded(max(capacity, 1) if capacity else SMALLEST)
        pad = torch.zeros(rows, dtype=torch.int64) if padding is None else padding
        self._padding = pad.to(device)
        self._next = -self._padding
        self._written = 0  # columns, also those that a rewind has forgotten
        self._row: slice = slice(None)
        self._pos = self._slot = self._key = torch.empty(0)
        self._layers: dict[int, tuple[Kept, Kept]] = {}
        self._chosen: dict[tuple[int, int], ChosenSlots] = {}
        self._states: dict[int, dict[str, Tensor]] = {}
        self._stateful: set[int] = set()  # layers whose state is of these rows

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values, and for recurrent layers' states."""
        whole = sum(kept.nbytes for kept in self._all_kept())
        return whole + sum(t.nbytes for s in self._states.values() for t in s.values())

    @property
    def next_positions(self) -> Tensor:
        """[B] int64 on the device: the position of the coming token of each row."""
        return self._next

    @property
    def active(self) -> slice:
        """The rows of this pass."""
        return self._row

    @property
    def plainly_kept(self) -> bool:
        """Whether keys and values are held as the model computes them."""
        return self._keeping == plainly()

    @property
    def new_slots(self) -> Tensor:
        """[B, s] int64: where the keys of this pass go."""
        return self._slot

    @property
    def columns_read(self) -> None:
        """None: rows have slots of their own; see `PagedSeats`."""
        return None

    def plain(self, layer_index: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values where they lie, [B, K, slots + 1, head_dim].

        None where none are held yet, or in another format than the model's.
        """
        if layer_index not in self._layers:
            return None
        keys, values = (kept.plain for kept in self._layers[layer_index])
        return None if keys is None or values is None else (keys, values)

    def read_prompts(
        self, prompts: Sequence[Sequence[int]], columns: int, device: torch.device
    ) -> Iterator[tuple[Tensor, bool]]:
        """All rows at once, padded at the left with token 0; see `DecodingCache`."""
        if self.apart:
            yield from self._read_apart(prompts, columns, device)
            return
        longest = max(map(len, prompts))
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        ids = torch.tensor(rows, dtype=torch.long, device=device)[:, self.length :]
        chunks = ids.split(self._at_once(columns), dim=1)
        for number, chunk in enumerate(chunks, 1):
            yield chunk, number == len(chunks)

    def _read_apart(
        self, prompts: Sequence[Sequence[int]], columns: int, device: torch.device
    ) -> Iterator[tuple[Tensor, bool]]:
        """One row after the other."""
        for row, prompt in enumerate(prompts):
            with self.only(row):
                ids = torch.tensor([list(prompt[self.length :])], device=device)
                chunks = ids.split(self._at_once(columns), dim=1)
                for number, chunk in enumerate(chunks, 1):
                    yield chunk, number == len(chunks)

    @contextmanager
    def only(self, row: int) -> Iterator[None]:
        """Passes are of one row alone, of rows that are apart."""
        self._row, self.length = slice(row, row + 1), self._own[row]
        try:
            yield
        finally:
            self._own[row] = self.length
            self._row, self.length = slice(None), max(self._own)

    def _at_once(self, columns: int) -> int:
        """Columns of a prompt in a pass: a ring has room for this many."""
        if not self._ring:
            return columns
        return min(columns, self._most - self._sinks - self._sight[0] + 1)

    def positions(self, input_ids: Tensor) -> Tensor:
        """Positions of the coming tokens, [B, s]; padding counts as position 0."""
        given = self._coming(input_ids.shape[1]).clamp(min=0)
        if self._below is None or not self.fixed_shapes:
            return given
        return given.clamp(max=self._below - 1)

    def mask(self, position_ids: Tensor) -> Tensor:
        """Begins a forward pass over s new tokens; see the protocol.

        Args:
            position_ids: [B, s]; only its shape matters here.
        """
        new = position_ids.shape[1]
        if not self.fixed_shapes:
            self._make_room(self.length + new, new)
        self._pos = self._coming(new)
        self._slot = self._slot_of(self._pos, self.slots)
        self._next[self._row] += new
        self.advance(new)
        last_b1 = self._next[self._row, None] - 1
        self._key = self._held(last_b1, self.slots)[:, : self.span_read]
        for layer in self._chosen.values():
            layer.forget(self._slot)
        return self._seen(self._pos, self._key).unsqueeze(1)

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one layer's new keys and values, [B, K, s, hd]; returns all, T long."""
        if layer_index not in self._layers:
            self._layers[layer_index] = self.room_for(k), self.room_for(v)
        keys, values = (kept.part(self._row) for kept in self._layers[layer_index])
        keys.scatter(self._slot, k)
        values.scatter(self._slot, v)
        return keys.read(self.span_read), values.read(self.span_read)

    def holds(self, layer_index: int) -> bool:
        """Whether a layer's keys are kept; see the protocol."""
        return layer_index in self._layers

    def fork(self, layer_index: int, source: int) -> None:
        """Begins a layer with the keys of another; see the protocol."""
        keys, values = self._layers[source]
        self._layers[layer_index] = keys.copy(), values.copy()

    def choose(
        self, slot: tuple[int, int], columns: Tensor, taken: Tensor
    ) -> tuple[ChosenSlots, Tensor]:
        """For a layer that only some of the new tokens go through; see the protocol."""
        if slot not in self._chosen:
            self._chosen[slot] = ChosenSlots(self)
        layer = self._chosen[slot]
        query_bn = self._pos.gather(1, columns)
        there_bt = layer.admit(self._slot.gather(1, columns), taken & (query_bn >= 0))
        seen = self._seen(query_bn, self._key) & there_bt[:, None, : self.span_read]
        # A query without a key (an empty place) sees the first one: never NaN.
        first = torch.arange(self.span_read, device=seen.device) == 0
        seen |= ~seen.any(dim=-1, keepdim=True) & first
        return layer, seen.unsqueeze(1)

    def recall(self, layer_index: int) -> dict[str, Tensor]:
        """The state of a recurrent layer; see the protocol."""
        known = layer_index in self._stateful
        return self._states[layer_index] if known else {}

    def remember(self, layer_index: int, **state: Tensor) -> None:
        """Keeps the state of a recurrent layer; see the protocol."""
        self._stateful.add(layer_index)
        held = self._states.get(layer_index)
        if held is None:
            self._states[layer_index] = {n: t.clone() for n, t in state.items()}
            return
        for name, value in state.items():  # a recorded step reads from the same place
            held[name].copy_(value)

    def rewind(self, length: int) -> bool:
        """Forgets all but the first `length` columns.

        Returns:
            False, with nothing forgotten, when the ring no longer holds what the next
            token would have to see, or a state has taken up what comes after.
        """
        if length > self.length:
            raise ValueError(f"cannot rewind {self.length} columns to {length}")
        if 0 < length < self.length and self._stateful:
            return False
        if self._ring and length:
            oldest = max(length - self._sight[0] + 1, 0)
            if self._written - (self.slots - self._sinks) > oldest:
                return False
        if length == 0:
            self._stateful.clear()
            self._written = 0
        self._own = [min(own, length) for own in self._own]
        # Rows may have taken back some columns each: count from the left.
        begun = torch.tensor(self._own if self.apart else [length] * self.rows)
        self._next.copy_(begun.to(self._next.device) - self._padding)
        self.length = length
        return True

    def restart(self, padding: Tensor | None) -> None:
        """Begin anew with as many rows, in the same memory; see `padding` above."""
        self.rewind(0)
        self._own = [0] * self.rows
        self._padding.zero_()
        if padding is not None:
            self._padding.copy_(padding)
        self._next.copy_(-self._padding)

    def restart_row(self, row: int) -> None:
        """Begin one of the rows that are apart anew.

        What layers hold of chosen tokens is forgotten as new ones take their places.
        Keys are cleared: what was no number would go on to be none where it is
        weighed with zero.
        """
        assert self.apart and not self._stateful
        for kept in self._all_kept():
            kept.part(slice(row, row + 1)).clear()
        self._own[row] = 0
        self._next[row] = 0

    @property
    def remembers(self) -> bool:
        """Whether a layer keeps a state, which cannot be taken back."""
        return bool(self._stateful)

    def take_back(self, columns_b: Tensor) -> None:
        """Forget the last columns of each row, [B] int64, which the host still counts.

        At most as many as the last pass added.
        """
        self._next -= columns_b

    @property
    def counted(self) -> tuple[int, int, list[int]]:
        """What the host has counted: columns, columns ever written, those of rows."""
        return self.length, self._written, list(self._own)

    @counted.setter
    def counted(self, value: tuple[int, int, list[int]]) -> None:
        self.length, self._written, self._own = value

    def advance(self, columns: int) -> None:
        """Count columns that a pass has added."""
        if self._row == slice(None):
            self._own = [own + columns for own in self._own]
        self.length += columns
        self._written = max(self._written, self.length)

    def reserve(self, columns: int) -> None:
        """Have slots for this many columns."""
        self._resize(self._bounded(max(columns, self.slots)))

    def span_for(self, columns: int) -> int:
        """Slots that a recorded step reads while there are so many columns at most."""
        span = SPAN
        while span < columns:
            span *= 2
        return min(span, self.slots)

    def keep_rows(self, rows: Tensor) -> None:
        """Goes on with these rows only, [R] int64 on the cache's device."""
        self.recorded = None
        for kept in self._all_kept():
            kept.keep_rows(rows)
        for layer in self._chosen.values():
            layer.there = layer.there.index_select(0, rows)
        self._states = {
            layer: {name: t.index_select(0, rows) for name, t in state.items()}
            for layer, state in self._states.items()
        }
        self.rows = len(rows)
        self._own = [self._own[row] for row in rows.tolist()]
        self._next = self._next.index_select(0, rows)
        self._padding = self._padding.index_select(0, rows)

    @property
    def span_read(self) -> int:
        """T: how many slots a pass reads."""
        return min(self.span or self.length, self.slots)

    def _coming(self, new: int) -> Tensor:
        """Positions of the new tokens, [B, s], below 0 for padding."""
        next_b1 = self._next[self._row, None]
        return next_b1 + torch.arange(new, device=next_b1.device)

    def _seen(self, query_bn: Tensor, key_bt: Tensor) -> Tensor:
        """What queries at positions see of keys at positions, [B, n, T]."""
        query, key = query_bn[:, :, None], key_bt[:, None, :]
        seen = in_reach(query, key, 0, *self._sight) & (key >= 0)
        # Padding sees the first slot: a row of nothing but -inf would be NaN.
        first = torch.arange(key_bt.shape[1], device=key_bt.device) == 0
        return seen | ((query < 0) & first)

    def _slot_of(self, position: Tensor, slots: int) -> Tensor:
        """Where the keys of positions lie; `slots`, the last place, is for the rest."""
        place = position
        if self._ring:
            behind = self._sinks + (position - self._sinks) % (slots - self._sinks)
            place = torch.where(position < self._sinks, position, behind)
        return torch.where((position < 0) | (place >= slots), slots, place)

    def _held(self, last_b1: Tensor, slots: int) -> Tensor:
        """The newest position in each slot, [B, slots]; -1: none yet.

        Args:
            last_b1: the last position of each row.
        """
        slot = torch.arange(slots, device=last_b1.device)
        if not self._ring:
            return torch.where(slot <= last_b1, slot, -1)
        newest = last_b1 - (last_b1 - slot) % (slots - self._sinks)
        newest = torch.where(newest >= self._sinks, newest, -1)
        sinks = torch.where(slot <= last_b1, slot, -1)
        return torch.where(slot < self._sinks, sinks, newest)

    def room_for(self, new: Tensor) -> Kept:
        """Slots for vectors like these, [B, K, s, width]."""
        whole = new.new_empty((self.rows, *new.shape[1:]))
        kept = Kept(whole, self.slots + 1, self._keeping)
        kept.clear()  # slots are read before they are written
        return kept

    def _bounded(self, slots: int) -> int:
        return min(slots, self._most) if self._most else slots

    def _make_room(self, columns: int, new: int) -> None:
        """Slots for this many columns, the last `new` of which come in one pass."""
        if self._ring:  # the first of them still see what the last would overwrite
            least = self._sinks + self._sight[0] + new - 1
            self._most = max(self._most, least)
        if columns > self.slots:
            self._resize(self._bounded(max(columns, 2 * self.slots)))

    def _resize(self, slots: int) -> None:
        """Move everything to this many slots."""
        if slots == self.slots:
            return
        self.recorded = None
        last_b1 = self._next[:, None] - 1
        held_bt = self._held(last_b1, slots)
        # What stood in no slot is never seen: it may take any.
        order = self._slot_of(held_bt, self.slots)
        order = torch.cat([order, torch.full_like(last_b1, self.slots)], dim=1)
        for kept in self._all_kept():
            kept.reorder(order)
        for layer in self._chosen.values():
            layer.there = layer.there.gather(1, order)
        self.slots = slots

    def _all_kept(self) -> list[Kept]:
        """Every layer's keys and values."""
        pairs = list(self._layers.values())
        pairs += [one.kept for one in self._chosen.values() if one.kept is not None]
        return [kept for pair in pairs for kept in pair]
