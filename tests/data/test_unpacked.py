"""Rows of one document each: every row once an epoch, batches as wide as needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.batch import IGNORE
from lumina.data.store import StoreWriter, TokenStore
from lumina.data.unpacked import NARROWEST, ByLength, UnpackedStream, unpacked_sequence


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=300),
    st.integers(0, 5),
    st.lists(st.integers(1, 90), min_size=1, max_size=6),
)
@pytest.mark.covers("DAT-23: dynamic batching", "DAT-16")
def test_every_row_comes_once_an_epoch(
    lengths: list[int], seed: int, steps: list[int]
) -> None:
    order = ByLength(np.array(lengths, np.int32), seed=seed, fingerprint="data")
    count, cursor, found = len(lengths), order.start, []
    while len(found) < 2 * count:
        for step in steps:
            taken = order.take(dict(cursor), step)
            found += taken.row_ids
            cursor = taken.cursor
    for epoch in (0, 1):
        rows = [row for e, row in found[epoch * count : (epoch + 1) * count]]
        assert sorted(rows) == list(range(count))


def new_store(folder: Path, lengths: list[int]) -> TokenStore:
    folder.mkdir()
    writer = StoreWriter(folder, 60_000, masked=False)
    first = 0
    for length in lengths:
        ids = np.arange(first, first + length, dtype=np.uint32)
        first += length
        mask = np.arange(length) > 0
        writer.add(ids, mask, text_bytes=length, loss_bytes=length, last=True)
    writer.close()
    return TokenStore.open(folder)


def test_batches_hold_every_label_once_and_little_padding(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    lengths = [int(n) for n in chance.integers(2, 200, 400)] + [700]
    store = new_store(tmp_path / "store", lengths)
    sequence = unpacked_sequence(store, 256, 3, None)
    stream = UnpackedStream(
        store, sequence, seq_length=256, global_batch_size=8, epochs=1
    )
    labels, widths, padded, cursor, positions = [], set(), 0, stream.start, 0
    while step := stream.step(cursor, micro_batch_size=4):
        cursor = step.cursor
        for batch in step.micro_batches:
            widths.add(batch.input_ids.shape[1])
            taught = batch.labels != IGNORE
            assert (batch.labels[taught] == batch.input_ids[taught] + 1).all()
            labels += batch.labels[taught].tolist()
            padded += int((batch.document_ids < 0).sum())
            positions += batch.input_ids.numel()
            assert batch.cu_seqlens[-1] == batch.input_ids.numel()
        assert step.loss_tokens == sum(
            int((b.labels != IGNORE).sum()) for b in step.micro_batches
        )
    assert len(labels) == len(set(labels)) == sum(n - 1 for n in lengths)
    assert widths == {NARROWEST, 64, 128, 256} and padded < positions / 3
