"""Batches: every token once, labels, masks, and an order nothing but the seed moves."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lumina.batch import IGNORE, Batch
from lumina.data.packed_stream import BatchStream, eval_batches
from lumina.data.packing import pack
from lumina.data.prefetch import Prefetcher
from lumina.data.store import StoreWriter, TokenStore
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError

WIDTH = 16


def make_store(
    folder: Path, documents: list[list[int]], masks: list[list[bool]] | None = None
) -> TokenStore:
    folder.mkdir()
    writer = StoreWriter(folder, 70000, masked=masks is not None)
    for index, ids in enumerate(documents):
        mask = np.array(masks[index] if masks else [False] + [True] * (len(ids) - 1))
        writer.add(np.array(ids), mask, text_bytes=1, loss_bytes=1, last=True)
    writer.close()
    return TokenStore.open(folder)


def numbered(sizes: list[int]) -> list[list[int]]:
    """Documents of these sizes; every token is unique over all of them."""
    ends = np.cumsum(sizes)
    return [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


START = {"epoch": 0, "row": 0}
SIZES = [2, 3, 90, 17, 18, 5, 33, 1, 64, 7, 7, 9, 12, 40, 2, 2]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return make_store(tmp_path / "store", numbered(SIZES))


def steps(stream: BatchStream, micro: int = 4, **share: int) -> list[StepBatches]:
    cursor, made = stream.start, []
    while (step := stream.step(cursor, micro_batch_size=micro, **share)) is not None:
        made.append(step)
        cursor = step.cursor
    return made


def new_stream(
    store: TokenStore, batch: int = 4, epochs: float | None = 1, seed: int = 0
) -> BatchStream:
    return BatchStream(
        store, seq_length=WIDTH, global_batch_size=batch, seed=seed, epochs=epochs
    )


def counted(batches: list[Batch]) -> Counter[tuple[int, int]]:
    """(input, label) pairs of all real positions."""
    pairs: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        real = batch.document_ids >= 0
        pairs.update(
            zip(
                batch.input_ids[real].tolist(), batch.labels[real].tolist(), strict=True
            )
        )
    return pairs


@pytest.mark.covers("DAT-40: several sequences per row")
def test_every_token_is_an_input_once_with_the_next_as_its_label(
    store: TokenStore,
) -> None:
    batches = [b for step in steps(new_stream(store)) for b in step.micro_batches]
    expected = Counter(pair for ids in numbered(SIZES) for pair in pairwise(ids))
    assert counted(batches) == expected


@pytest.mark.covers("DAT-40: several sequences per row")
def test_documents_in_a_row_are_kept_apart(store: TokenStore) -> None:
    stream = new_stream(store)
    assert stream.utilisation > 0.9
    shared = 0
    for step in steps(stream):
        for batch in step.micro_batches:
            check_boundaries(batch)
            shared += int((batch.document_ids > 0).any())
    assert shared  # some rows hold several documents


def check_boundaries(batch: Batch) -> None:
    """Each document's tokens follow each other; all descriptions of it agree."""
    starts = [0]
    for row in range(batch.input_ids.shape[0]):
        ids = batch.document_ids[row].tolist()
        real = [i for i in ids if i >= 0]
        assert real == sorted(real) and ids == real + [-1] * (len(ids) - len(real))
        assert set(real) == set(range(len(set(real))))
        for document in dict.fromkeys(ids):
            places = [s for s, i in enumerate(ids) if i == document]
            starts.append(starts[-1] + len(places))
            positions = batch.position_ids[row, places].tolist()
            assert positions == list(range(len(places)))
            if document == -1:
                assert (batch.labels[row, places] == IGNORE).all()
                continue
            tokens = batch.input_ids[row, places].tolist()
            first = tokens[0]
            assert tokens == list(range(first, first + len(tokens)))
            assert len(places) <= batch.max_seqlen
    edges = batch.cu_seqlens.tolist()
    assert batch.cu_seqlens.dtype == torch.int32
    assert edges[: len(starts)] == starts
    assert set(edges[len(starts) :]) <= {batch.input_ids.numel()}
    assert edges[-1] == batch.input_ids.numel()
    assert batch.max_seqlen in (1, 2, 4, 8, 16)
    if batch.one_document_rows:
        assert (batch.document_ids == 0).all()


def test_shapes_never_change_between_batches(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 50, 200).tolist()
    stream = new_stream(make_store(tmp_path / "s", numbered(sizes)), batch=8)
    batches = [b for step in steps(stream) for b in step.micro_batches]
    assert len({tuple(b.cu_seqlens.shape) for b in batches}) == 1
    # Nor what chooses the kernel: a row of one document is treated as the others are.
    assert {b.one_document_rows for b in batches} == {False}
    assert len({b.max_seqlen for b in batches}) == 1
    for batch in batches:
        check_boundaries(batch)


def test_rows_of_one_document_are_recognised(tmp_path: Path) -> None:
    stream = new_stream(make_store(tmp_path / "s", numbered([WIDTH * 8 + 1])))
    for step in steps(stream):
        assert all(b.one_document_rows for b in step.micro_batches)
        assert all(b.max_seqlen == WIDTH for b in step.micro_batches)


@pytest.mark.covers("DAT-32: disjoint split over workers")
@pytest.mark.parametrize(("world", "micro"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_do_not_change_a_step(
    store: TokenStore, world: int, micro: int
) -> None:
    whole = steps(new_stream(store))
    shares = [
        steps(new_stream(store), micro, rank=rank, data_ranks=world)
        for rank in range(world)
    ]
    for index, step in enumerate(whole):
        parts = [share[index] for share in shares]
        rows = torch.cat([b.input_ids for p in parts for b in p.micro_batches])
        assert torch.equal(rows, step.micro_batches[0].input_ids)
        for part in parts:
            assert len(part.micro_batches) == 4 // world // micro
            # The totals are those of all ranks.
            assert (part.tokens, part.loss_tokens) == (step.tokens, step.loss_tokens)
            assert (part.cursor, part.row_ids) == (step.cursor, step.row_ids)


def test_a_batch_that_cannot_be_divided_is_refused(store: TokenStore) -> None:
    with pytest.raises(LuminaError, match="3 ranks") as caught:
        new_stream(store).step(START, data_ranks=3, micro_batch_size=1)
    assert caught.value.code == "E005"


@pytest.mark.covers("TRN-32: reshuffles each cycle")
def test_each_epoch_has_every_row_once_in_another_order(store: TokenStore) -> None:
    stream = new_stream(store, epochs=3)
    ids = [pair for step in steps(stream) for pair in step.row_ids]
    rows = stream.order.rows_per_epoch
    assert rows % 4  # so that a step crosses the end of an epoch
    orders = [[row for epoch, row in ids if epoch == e] for e in range(3)]
    assert all(sorted(order) == list(range(rows)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    other = steps(new_stream(store, seed=1))
    assert [s.row_ids for s in other] != [s.row_ids for s in steps(new_stream(store))]


@pytest.mark.parametrize("epochs", [0.5, 1, 1.7])
def test_a_limited_run_ends_in_empty_rows(store: TokenStore, epochs: float) -> None:
    stream = new_stream(store, epochs=epochs)
    made = steps(stream)
    rows = round(epochs * stream.order.rows_per_epoch)
    assert sum(len(step.row_ids) for step in made) == rows
    assert len(made) == stream.order.steps == -(-rows // 4)
    last = made[-1].micro_batches[0]
    empty = (last.document_ids == -1).all(dim=1)
    assert int(empty.sum()) == len(made) * 4 - rows
    assert (last.labels[empty] == IGNORE).all()
    assert made[-1].epoch == pytest.approx(epochs, abs=1 / stream.order.rows_per_epoch)
    assert made[-1].tokens == int((last.document_ids >= 0).sum())


@pytest.mark.covers("CKP-02: data position")
def test_a_run_resumed_at_a_cursor_goes_on_the_same(store: TokenStore) -> None:
    whole = steps(new_stream(store, epochs=2.5))
    for index, step in enumerate(whole[:-1]):
        cursor = json.loads(json.dumps(step.cursor))
        resumed = new_stream(store, epochs=2.5).step(cursor, micro_batch_size=2)
        following = whole[index + 1]
        assert resumed is not None
        assert resumed.row_ids == following.row_ids
        labels = torch.cat([b.labels for b in resumed.micro_batches])
        assert torch.equal(labels, following.micro_batches[0].labels)


def test_the_order_follows_the_content_not_the_place(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a", numbered(SIZES))
    two = make_store(tmp_path / "b", numbered(SIZES))
    other = make_store(tmp_path / "c", numbered(SIZES[::-1]))
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert new_stream(one).step(START, micro_batch_size=4).row_ids == (
        new_stream(two).step(START, micro_batch_size=4).row_ids
    )


@pytest.mark.covers("DAT-14: assistant tokens alone")
def test_only_masked_tokens_bear_loss(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    documents = numbered(SIZES)
    masks = [(generator.random(len(d)) < 0.4).tolist() for d in documents]
    store = make_store(tmp_path / "s", documents, masks)
    made = steps(new_stream(store), micro=2)
    pairs = counted([b for step in made for b in step.micro_batches])
    expected = Counter(
        (ids[i], ids[i + 1] if mask[i + 1] else IGNORE)
        for ids, mask in zip(documents, masks, strict=True)
        for i in range(len(ids) - 1)
    )
    assert pairs == expected
    for step in made:
        labels = torch.cat([b.labels for b in step.micro_batches])
        assert step.loss_tokens == int((labels != IGNORE).sum())
        assert step.loss_tokens < step.tokens


def test_evaluation_is_fixed_and_shared_fairly(store: TokenStore) -> None:
    whole = list(eval_batches(store, WIDTH, 2))
    again = list(eval_batches(store, WIDTH, 2))
    assert all(
        torch.equal(a.labels, b.labels) for a, b in zip(whole, again, strict=True)
    )
    assert sum(counted(whole).values()) == sum(max(size - 1, 0) for size in SIZES)
    for limit in (None, 5):
        shares = [
            list(eval_batches(store, WIDTH, 2, limit, rank=r, data_ranks=3))
            for r in range(3)
        ]
        assert len({len(share) for share in shares}) == 1  # ranks stay in step
        together = [b for share in shares for b in share]
        assert counted(together) == counted(whole[:limit])


@pytest.mark.covers("DAT-26")
@pytest.mark.parametrize("threads", [0, 1, 4])
def test_the_prefetcher_gives_the_same_steps_then_none(
    store: TokenStore, threads: int
) -> None:
    expected = steps(new_stream(store, epochs=2))
    fetcher = Prefetcher(
        new_stream(store, epochs=2), START, micro_batch_size=4, threads=threads
    )
    for step in expected:
        made, waited = fetcher.next()
        assert made is not None and waited >= 0
        assert made.row_ids == step.row_ids
        assert torch.equal(made.micro_batches[0].labels, step.micro_batches[0].labels)
    assert fetcher.next()[0] is None
    assert fetcher.next()[0] is None
    fetcher.close()


@pytest.mark.parametrize("threads", [1, 4])
def test_the_prefetcher_hands_on_errors_and_stops(
    store: TokenStore, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Prefetcher(new_stream(store), START, micro_batch_size=3, threads=threads)
    for _ in range(2):
        with pytest.raises(LuminaError, match="micro-batches of 3"):
            broken.next()
    broken.close()
    with monkeypatch.context() as patch:
        patch.setattr(BatchStream, "read", lambda *_: 1 / 0)
        unread = Prefetcher(
            new_stream(store), START, micro_batch_size=4, threads=threads
        )
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                unread.next()
        unread.close()
    endless = Prefetcher(
        new_stream(store, epochs=None), START, micro_batch_size=4, threads=threads
    )
    endless.next()
    endless.close()
    assert endless.next()[0] is None
    assert not [t for t in threading.enumerate() if t.name == "lumina-data"]


@pytest.mark.parametrize("threads", [2, 3])
def test_as_many_steps_are_read_at_once_as_there_are_threads(
    store: TokenStore, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits until all of them are at it: none would come if one were missing."""
    together, read = threading.Barrier(threads, timeout=240), BatchStream.read
    begun = itertools.count()

    def wait(self: BatchStream, *arguments: object) -> object:
        if next(begun) < threads:
            together.wait()
        return read(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(BatchStream, "read", wait)
    fetcher = Prefetcher(
        new_stream(store, epochs=None), START, micro_batch_size=4, threads=threads
    )
    for _ in range(threads):
        assert fetcher.next()[0] is not None
    fetcher.close()


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LuminaError) as caught:
        new_stream(make_store(tmp_path / "s", [[1], []]))
    assert caught.value.code == "E105"


def test_packing_in_windows_loses_nothing(store: TokenStore) -> None:
    whole, windows = pack(store, WIDTH), pack(store, WIDTH, window=5)
    assert sorted(whole.starts) == sorted(windows.starts)
    assert len(windows) >= len(whole)
    for packing in (whole, windows):
        filled = np.add.reduceat(packing.lengths, packing.rows[:-1])
        assert filled.max() <= WIDTH
