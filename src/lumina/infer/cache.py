"""Keys and values of the tokens seen so far, so that a new token costs one token.

Rows of different length share the cache by left padding: column c of row b holds
position c - padding[b]. All rows therefore write the same column at the same time, and
a sliding window needs only its last columns, kept in a ring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lumina.infer.kv.kept import Keeping, Kept, plainly
from lumina.infer.subset_cache import ChosenKeys
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.masks import in_reach

SMALLEST = 64
"""Columns allocated at first when nothing is said."""


class KVCache:
    """The cache of `lumina.model.cache_protocol.Cache`, for full and sliding attention.

    Args:
        rows: B, sequences decoded together.
        window: 0, or the sliding window in tokens; then memory is bounded by it.
        beyond: what stays visible beyond the window. The sinks of a row are kept apart
            from its window; with dilation, all keys are kept.
        padding: [B] int64, columns of padding at the left of each row; default: none.
        capacity: columns to allocate at once; a full cache grows past it by doubling.
        keeping: the number format and the place; None: as computed, on the device.
    """

    def __init__(
        self,
        rows: int,
        *,
        window: int = 0,
        beyond: Beyond = NOTHING,
        padding: Tensor | None = None,
        capacity: int = 0,
        keeping: Keeping | None = None,
    ) -> None:
        self.rows = rows
        self._keeping = keeping or plainly()
        self.window = 0 if beyond.dilation else window
        self.length = 0
        self._sight = (window, beyond) if beyond.dilation else None
        self._sinks = beyond.sinks if self.window else 0
        self._sink_slots: Tensor | None = None
        self._sink_keys: dict[int, Kept] = {}
        self._sink_values: dict[int, Kept] = {}
        self._capacity = self.window or capacity or SMALLEST
        self._padding = padding
        self._padded = padding is not None and bool(padding.any())
        self._begin = 0
        self._keys: dict[int, Kept] = {}
        self._values: dict[int, Kept] = {}
        self._chosen: dict[tuple[int, int], ChosenKeys] = {}
        self._states: dict[int, dict[str, Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values, and for recurrent layers' states."""
        whole = sum(kept.nbytes for kept in self._all_kept())
        states = (t for state in self._states.values() for t in state.values())
        whole += sum(t.nbytes for t in states)
        return whole + sum(layer.nbytes for layer in self._chosen.values())

    def read_prompts(
        self, prompts: Sequence[Sequence[int]], columns: int, device: torch.device
    ) -> Iterator[tuple[Tensor, bool]]:
        """All rows at once, padded at the left with token 0; see `DecodingCache`."""
        longest = max(map(len, prompts))
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        ids = torch.tensor(rows, dtype=torch.long, device=device)[:, self.length :]
        chunks = ids.split(columns, dim=1)
        for number, chunk in enumerate(chunks, 1):
            yield chunk, number == len(chunks)

    def positions(self, input_ids: Tensor) -> Tensor:
        """Positions of the coming tokens, [B, s]; padding counts as position 0."""
        columns_s = self._columns(self.length, input_ids.shape[1], input_ids.device)
        if self._padding is None:
            return columns_s.expand(input_ids.shape)
        self._padding = self._padding.to(input_ids.device)
        return (columns_s - self._padding.unsqueeze(-1)).clamp(min=0)

    def mask(self, position_ids: Tensor) -> Tensor | None:
        """Begins a forward pass over s new tokens; see the protocol.

        Args:
            position_ids: [B, s]; only its shape and device matter here.
        """
        new, device = position_ids.shape[1], position_ids.device
        self._begin, self.length = self.length, self.length + new
        hidden_by_window = 0 < self.window < self.length
        one_sees_all = new == 1 and self._capacity <= self.length
        plain = not self._sinks and (not hidden_by_window or one_sees_all)
        self._sink_slots = self._slots_of_sinks(device)
        if not self._padded and plain and self._sight is None:
            return None
        query_s1 = self._columns(self._begin, new, device).unsqueeze(-1)
        key_t = self._key_columns(new, device)
        seen = key_t <= query_s1
        if self._sight is not None:
            seen = self._in_sight(query_s1, key_t)
        elif self.window:
            seen &= query_s1 - key_t < self.window
        if self._padding is None:
            return self._and_sinks(seen.expand(self.rows, 1, -1, -1), query_s1)
        real = key_t >= self._padding.to(device).view(-1, 1, 1)
        # A padding query sees itself: a row of nothing but -inf would be NaN.
        seen = (seen & real) | (key_t == query_s1)
        return self._and_sinks(seen.unsqueeze(1), query_s1)

    def _first_columns(self, device: torch.device) -> Tensor:
        """The column of each row's first token, [B or 1, 1]."""
        if self._padding is None:
            return torch.zeros(1, 1, dtype=torch.int64, device=device)
        return self._padding.to(device)[:, None]

    def _slots_of_sinks(self, device: torch.device) -> Tensor | None:
        """Where the new columns go among the sinks, [B, s]; None: nowhere.

        The place behind the sinks takes those that are none.
        """
        if not self._sinks:
            return None
        columns = self._columns(self._begin, self.length - self._begin, device)
        place = (columns - self._first_columns(device)).expand(self.rows, -1)
        taken = (place >= 0) & (place < self._sinks)
        return torch.where(taken, place, self._sinks) if taken.any() else None

    def _and_sinks(self, seen: Tensor, query_s1: Tensor) -> Tensor:
        """The mask [B, 1, s, T] behind that of the sinks, where there are any.

        Those that the window still shows are seen there.
        """
        if not self._sinks:
            return seen
        sink_b1i = self._first_columns(seen.device)[:, None] + self._columns(
            0, self._sinks, seen.device
        )
        left_behind = (query_s1 - sink_b1i >= self.window).unsqueeze(1)
        return torch.cat([left_behind.expand(*seen.shape[:3], -1), seen], dim=-1)

    def _in_sight(self, query_s1: Tensor, key_t: Tensor) -> Tensor:
        """What the window and what stays visible beyond it show, [B or 1, s, T]."""
        assert self._sight is not None
        start: Tensor | int = 0
        if self._padding is not None:  # a row's text begins behind its padding
            start = self._padding.to(key_t.device).view(-1, 1, 1)
        return in_reach(query_s1, key_t, start, *self._sight)

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one layer's new keys and values, [B, K, s, hd]; returns all, T long."""
        if layer_index not in self._keys:
            self._keys[layer_index] = Kept(k, self._capacity, self._keeping)
            self._values[layer_index] = Kept(v, self._capacity, self._keeping)
        keys, values = self._keys[layer_index], self._values[layer_index]
        if self._sinks:
            sinks = self._sink_keys, self._sink_values
            new, rings = (k, v), (keys, values)
            own = [
                self._with_sinks(held, layer_index, one, ring)
                for held, one, ring in zip(sinks, new, rings, strict=True)
            ]
            return own[0], own[1]
        if self.window:
            return self._slide(keys, k), self._slide(values, v)
        return self._append(keys, k), self._append(values, v)

    def holds(self, layer_index: int) -> bool:
        """Whether a layer's keys are kept; see the protocol."""
        return layer_index in self._keys

    def fork(self, layer_index: int, source: int) -> None:
        """Begins a layer with the keys of another; see the protocol."""
        self._keys[layer_index] = self._keys[source].copy()
        self._values[layer_index] = self._values[source].copy()
        for held in (self._sink_keys, self._sink_values):
            if source in held:
                held[layer_index] = held[source].copy()

    def choose(
        self, slot: tuple[int, int], columns: Tensor, taken: Tensor
    ) -> tuple[ChosenKeys, Tensor]:
        """For a layer that only some of the new tokens go through; see the protocol."""
        if slot not in self._chosen:
            self._chosen[slot] = ChosenKeys(self.rows, columns.device, self._keeping)
        layer = self._chosen[slot]
        query_bn = columns + self._begin
        oldest = max(self._begin + 1 - self.window, 0) if self.window else 0
        key_bt = layer.admit(query_bn, taken, oldest)
        query, key = query_bn[:, :, None], key_bt[:, None, :]
        seen = (key >= 0) & (key <= query)
        if self.window:
            seen &= query - key < self.window
        if self._padding is not None:
            seen &= key >= self._padding.to(key.device).view(-1, 1, 1)
        # A query without a key (padding, an empty slot) sees the first one: never NaN.
        first = torch.arange(key_bt.shape[1], device=key.device) == 0
        seen |= ~seen.any(dim=-1, keepdim=True) & first
        return layer, seen.unsqueeze(1)

    def recall(self, layer_index: int) -> dict[str, Tensor]:
        """The state of a recurrent layer; see the protocol."""
        return self._states.get(layer_index, {})

    def remember(self, layer_index: int, **state: Tensor) -> None:
        """Keeps the state of a recurrent layer; see the protocol."""
        self._states[layer_index] = state

    def rewind(self, length: int) -> bool:
        """Forgets all but the first `length` columns.

        Returns:
            False, with nothing forgotten, when the ring no longer holds what the next
            token would have to see, or a state has taken up what comes after.
        """
        if length > self.length:
            raise ValueError(f"cannot rewind {self.length} columns to {length}")
        if 0 < length < self.length and self._states:
            return False
        if length == 0:
            self._states.clear()
        if length < self.length and self.window and self.length > self._capacity:
            return False
        self.length = length
        for layer in self._chosen.values():
            layer.rewind(length)
        return True

    def keep_rows(self, rows: Tensor) -> None:
        """Goes on with these rows only, [R] int64 on the cache's device."""
        for kept in self._all_kept():
            kept.keep_rows(rows)
        for layer in self._chosen.values():
            layer.keep_rows(rows)
        self._states = {
            layer: {name: t.index_select(0, rows) for name, t in state.items()}
            for layer, state in self._states.items()
        }
        self.rows = len(rows)
        if self._padding is not None:
            self._padding = self._padding.to(rows.device).index_select(0, rows)
            self._padded = bool(self._padding.any())

    def _all_kept(self) -> list[Kept]:
        """Every layer's keys, values and sinks."""
        held = (self._keys, self._values, self._sink_keys, self._sink_values)
        return [kept for layers in held for kept in layers.values()]

    def _with_sinks(
        self, held: dict[int, Kept], layer_index: int, new: Tensor, ring: Kept
    ) -> Tensor:
        """Writes [B, K, s, hd]; returns the sinks, then what the window shows."""
        if layer_index not in held:
            held[layer_index] = Kept(new, self._sinks + 1, self._keeping)
            held[layer_index].clear()
        if self._sink_slots is not None:
            held[layer_index].scatter(self._sink_slots, new)
        sinks = held[layer_index].read(self._sinks)
        return torch.cat([sinks, self._slide(ring, new)], dim=2)

    def _append(self, kept: Kept, new: Tensor) -> Tensor:
        """Writes [B, K, s, hd] behind what is there; returns all columns."""
        if self.length > self._capacity:
            self._capacity = max(self.length, 2 * self._capacity)
        if kept.capacity < self.length:
            kept.grow(self._capacity, self._begin)
        kept.write(slice(self._begin, self.length), new)
        return kept.read(self.length)

    def _slide(self, ring: Kept, new: Tensor) -> Tensor:
        """Writes [B, K, s, hd] into a ring; returns the keys the new queries may see.

        One new token overwrites the column that just left its window, so the ring is
        the answer. Of several, the first still see columns the last overwrite: they
        get the old columns and the new ones side by side.
        """
        count = new.shape[2]
        if count == 1:
            at = self._begin % self._capacity
            ring.write(slice(at, at + 1), new)
            return ring.read(min(self.length, self._capacity))
        old = ring.read(min(self._begin, self._capacity))
        seen = torch.cat([old, ring.rounded(new)], dim=2)
        kept = min(count, self._capacity)
        columns = torch.arange(self.length - kept, self.length, device=new.device)
        ring.write(columns % self._capacity, new[:, :, count - kept :])
        return seen

    def _key_columns(self, new: int, device: torch.device) -> Tensor:
        """Which column each key that `update` returns comes from, [T]."""
        if not self.window:
            return self._columns(0, self.length, device)
        if new == 1:
            return self._ring_columns(self.length, device)
        old = self._ring_columns(self._begin, device)
        return torch.cat([old, self._columns(self._begin, new, device)])

    def _ring_columns(self, length: int, device: torch.device) -> Tensor:
        """The newest column in each used slot of the ring, once it holds `length`."""
        slots = torch.arange(min(length, self._capacity), device=device)
        return slots + (length - 1 - slots) // self._capacity * self._capacity

    @staticmethod
    def _columns(begin: int, count: int, device: torch.device) -> Tensor:
        return torch.arange(begin, begin + count, device=device)
