"""`Batch`: one micro-batch, which data makes and models read.

Shape suffixes used everywhere: b batch rows, s sequence, d model width, h query
heads, k key/value heads, e experts, c capacity, v vocabulary, t tokens = b*s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

IGNORE = -100
"""The label of a position that does not count towards the loss."""


_WHOLE_ROWS = ("cu_seqlens", "task_ids", "source_ids", "uniforms")
"""Tensors of a batch that have no value for each column."""


class BaseOutputs(NamedTuple):
    """What a frozen model makes of the first rows of a batch.

    Attributes:
        hidden: [R, S, D] after its final norm.
        head: [padded vocabulary, D], its head.
    """

    hidden: Tensor
    head: Tensor


class PartOfRows(Protocol):
    """Where in whole rows the columns of a batch stand, where ranks have parts of rows.

    It is `lumina.ops.attention.ring.part.RowPart`.
    """

    def rows(self, begin: int, end: int) -> PartOfRows:
        """The same of some of the rows."""

    def seen(self, window: int, sinks: int) -> Tensor:
        """What names all that its queries see; see `RowPart.seen`."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch, as it reaches one device.

    Attributes:
        input_ids: [B, S] int64.
        labels: [B, S] int64; already shifted for language modelling (the label of
            position s is the token at s + 1); `IGNORE` where there is no loss.
        position_ids: [B, S] int64; restart at 0 with every document.
        document_ids: [B, S] int64; unique and rising within a row, -1 for padding.
        cu_seqlens: [N + 1] int32, the start of every document in the flattened
            [B * S] token stream, padded to a fixed length by repeating B * S. Padding
            positions form documents of their own. Computed on the CPU.
        max_seqlen: the longest document of the batch, a Python int rounded up so that
            it takes few distinct values.
        one_document_rows: every row is exactly one document without padding, so plain
            causal attention is the same thing as document attention.
        loss_weights: [B, S] float32 or None (all ones).
        task_ids: [B] int64 or None; for puzzles, their identifiers.
        task_rows: rows of each task, for a model of several: the rows stand in the
            order of the tasks. Python ints, so that a head knows its rows unasked.
        source_ids: [B] int64 or None; the number of the source that each row comes
            from, where a run has several.
        uniforms: [B, N] float32 in [0, 1) or None: random draws that belong to the
            rows, so that what a model draws is the same on any split over ranks.
        base_outputs: what a frozen model makes of the first rows, or None; made on the
            device, so it is never moved.
        part: where the columns stand in rows that several ranks share; None: rows are
            whole. Attention needs it to see the keys of the other ranks.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    document_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    one_document_rows: bool = False
    loss_weights: Tensor | None = None
    task_ids: Tensor | None = None
    task_rows: tuple[int, ...] | None = None
    source_ids: Tensor | None = None
    uniforms: Tensor | None = None
    base_outputs: BaseOutputs | None = None
    part: PartOfRows | None = None

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def first(self, rows: int) -> Batch:
        """Its first rows, as a batch of their own."""
        return self.rows(0, rows)

    def rows(self, begin: int, end: int) -> Batch:
        """Some of its rows, as a batch of their own."""
        tasks, done = self.task_rows, 0
        if tasks is not None:  # rows stand in the order of their tasks
            counts = []
            for count in tasks:
                counts.append(max(0, min(done + count, end) - max(done, begin)))
                done += count
            tasks = tuple(counts)
        cut: dict[str, Any] = {
            f.name: value[begin:end]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        length = self.input_ids.shape[1]
        starts = self.cu_seqlens.clamp(begin * length, end * length) - begin * length
        before = int((starts == 0).sum()) - 1 if begin else 0
        if before > 0:  # documents that end before these rows
            filled = starts[-1:].expand(before)
            starts = torch.cat([starts[before:], filled])
        cut |= {"cu_seqlens": starts, "task_rows": tasks, "base_outputs": None}
        if self.part is not None:
            cut["part"] = self.part.rows(begin, end)
        return replace(self, **cut)

    def columns(self, begin: int, end: int) -> Batch:
        """Some columns of all its rows, as a batch of their own.

        Attention cannot tell from it where documents begin, which may be earlier.

        Args:
            begin: the first column.
            end: behind the last one; columns end with the row.
        """
        end = min(end, self.input_ids.shape[1])
        return self._cut(lambda x_bs: x_bs[:, begin:end], end - begin)

    def part_of(
        self, take: Callable[[Tensor], Tensor], length: int, part: PartOfRows
    ) -> Batch:
        """The columns that one of several ranks has, as a batch of their own.

        Args:
            take: of a tensor [B, S] the columns of this rank.
            length: how many there are.
            part: where they stand.
        """
        return replace(self._cut(take, length), part=part)

    def _cut(self, take: Callable[[Tensor], Tensor], length: int) -> Batch:
        rows = len(self.input_ids)
        cut: dict[str, Any] = {
            f.name: take(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
            and f.name not in _WHOLE_ROWS
        }
        cut["cu_seqlens"] = torch.arange(
            0, (rows + 1) * length, length, dtype=torch.int32, device=self._device
        )
        return replace(
            self, **cut, max_seqlen=length, one_document_rows=False, base_outputs=None
        )

    @property
    def _device(self) -> torch.device:
        return self.input_ids.device

    def parts(self, count: int) -> list[Batch]:
        """Its rows in at most this many batches of equal size; the last may be smaller.

        Args:
            count: from 1; 1 gives the batch itself.
        """
        rows = len(self.input_ids)
        if count == 1 or rows < 2:
            return [self]
        size = -(-rows // count)
        begins = range(0, rows, size)
        return [self.rows(begin, min(begin + size, rows)) for begin in begins]

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for asynchronous copies to a GPU."""
        pinned: dict[str, Any] = {
            f.name: value.contiguous().pin_memory()  # expanded ones cannot be pinned
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)

    @staticmethod
    def from_rows(input_ids: Tensor, labels: Tensor | None = None) -> Batch:
        """A batch whose rows are one document each: for generation, tests, probes.

        Args:
            input_ids: [B, S] int64.
            labels: [B, S] int64; all `IGNORE` when absent.
        """
        rows, length = input_ids.shape
        device = input_ids.device
        positions = torch.arange(length, device=device).expand(rows, length)
        return Batch(
            input_ids=input_ids,
            labels=torch.full_like(input_ids, IGNORE) if labels is None else labels,
            position_ids=positions,
            document_ids=torch.zeros_like(input_ids),
            cu_seqlens=torch.arange(
                0, (rows + 1) * length, length, dtype=torch.int32, device=device
            ),
            max_seqlen=length,
            one_document_rows=True,
        )
