"""Streamed rows: nothing is lost or doubled, wherever they are cut and resumed."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.data.documents import Document, Skipped
from lumina.data.mixture.shares import ShareSchedule
from lumina.data.mixture.streamed_mixture import StreamedMixture
from lumina.data.order import Cursor, RowOrder
from lumina.data.streaming import windows
from lumina.data.streaming.left_out import TOLD, LeftOut
from lumina.data.streaming.places import Placed, Where
from lumina.data.streaming.sequence import StreamedRows, StreamOptions
from lumina.data.streaming.window_rows import WindowRows, gathered
from lumina.data.streaming.windows import Part, Window
from lumina.data.tokenise import Encoded

Corpus = list[list[int]]
"""For each document, the tokens of each of its pieces."""

corpora = st.lists(
    st.lists(st.integers(0, 12), min_size=1, max_size=4), min_size=1, max_size=12
).filter(lambda corpus: any(sum(one) > 1 for one in corpus))


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "BLOCK_BYTES", 100)
        yield


def documents(corpus: Corpus) -> list[Placed]:
    """Every token is a number of its own, so that a row tells where it comes from."""
    made, number = [], 0
    for document in corpus:
        for piece, size in enumerate(document):
            text = " ".join(map(str, range(number, number + size)))
            number += size
            part = Document(text, None, "here", 1, continues=piece > 0)
            made.append(Placed([len(made)], part))
    return made


def encode(parts: list[Part]) -> tuple[list[Encoded], list[Skipped]]:
    encoded = []
    for document, last in parts:
        ids = np.array((document.text or "").split(), dtype=np.uint32)
        mask = np.ones(len(ids), dtype=bool)
        if not document.continues:
            mask[:1] = False
        encoded.append(Encoded(False, ids, mask, len(ids), len(ids), last))
    return encoded, []


def new_rows(corpus: Corpus, **options: Any) -> StreamedRows:
    given = documents(corpus)

    def read(number: int, begin: Where | None, left_out: LeftOut) -> Iterator[Placed]:
        return iter(given[0 if begin is None else begin[0] :])

    start = {"seq_length": 5, "window_bytes": 250, "threads": 0, "seed": 3}
    return StreamedRows(read, encode, StreamOptions(**(start | options)))


def stored(cursor: Cursor) -> Cursor:
    """As a checkpoint keeps it."""
    return json.loads(json.dumps(cursor))


def rows_of(
    rows: StreamedRows, cursor: Cursor, counts: list[int]
) -> tuple[list[list[tuple[int, int]]], Cursor]:
    """The (input, label) pairs of each of the next rows."""
    found = []
    for count in counts:
        taken = rows.take(cursor, count)
        for content in taken.contents:
            tokens, packing = gathered([content], 5)
            pairs = []
            for start, length in zip(packing.starts, packing.lengths, strict=True):
                for place in range(start, start + length):
                    if tokens.mask[place + 1]:
                        pair = tokens.tokens[place : place + 2].tolist()
                        pairs.append((pair[0], pair[1]))
            found.append(pairs)
        cursor = stored(taken.cursor)
    return found, cursor


def every_pair(corpus: Corpus) -> list[tuple[int, int]]:
    pairs, number = [], 0
    for document in corpus:
        size = sum(document)
        pairs += [(n, n + 1) for n in range(number, number + size - 1)]
        number += size
    return pairs


@pytest.mark.covers("DAT-27: shuffle", "DAT-27: infinite iteration", "MTX-28: shuffle")
@settings(max_examples=60, deadline=None)
@given(
    corpora,
    st.integers(0, 3),
    st.sampled_from([60, 250, 10**6]),
    st.booleans(),
    st.integers(0, 9),
    st.lists(st.integers(1, 7), min_size=3, max_size=8),
)
def test_nothing_is_lost_or_doubled(
    corpus: Corpus,
    threads: int,
    window_bytes: int,
    in_order: bool,
    seed: int,
    steps: list[int],
) -> None:
    options = {"window_bytes": window_bytes, "in_order": in_order, "seed": seed}
    once = new_rows(corpus, **options)
    whole, end = rows_of(once, once.start, [10**4])
    assert end["over"] and end["rows"] == len(whole)
    assert sorted(pair for row in whole for pair in row) == every_pair(corpus)
    # As several steps, each in a program of its own, with threads, over two passes.
    endless, cursor, found = options | {"endless": True}, once.start, []
    while cursor["pass"] < 2:
        for count in steps:
            rows = new_rows(corpus, **endless, threads=threads)
            some, cursor = rows_of(rows, cursor, [count])
            found += some
            rows.close()
    assert found[: len(whole)] == whole
    again = found[len(whole) : 2 * len(whole)]
    assert sorted(pair for row in again for pair in row) == every_pair(corpus)


@pytest.mark.covers(
    "DAT-28: linear mode", "DAT-27: linear order", "MTX-28: Streaming + linear mode"
)
@settings(max_examples=30, deadline=None)
@given(corpora, st.sampled_from([60, 250]))
def test_linear_rows_keep_the_order_of_the_documents(
    corpus: Corpus, window_bytes: int
) -> None:
    rows = new_rows(corpus, in_order=True, window_bytes=window_bytes)
    found, _ = rows_of(rows, rows.start, [10**4])
    assert [pair for row in found for pair in row] == every_pair(corpus)


@pytest.mark.covers("DAT-28: start offset", "MTX-28: offset resume")
def test_the_offset_counts_documents() -> None:
    corpus = [[4], [3, 2], [6], [5]]
    rows = new_rows(corpus, in_order=True, first=2)
    found, _ = rows_of(rows, rows.start, [10**4])
    assert [pair for row in found for pair in row] == every_pair(corpus)[3 + 4 :]


def test_each_pass_has_an_order_of_its_own() -> None:
    corpus = [[9]] * 40
    rows = new_rows(corpus, endless=True, window_bytes=10**6)
    found, _ = rows_of(rows, rows.start, [160])
    size = len(found) // 2
    assert sorted(found[:size]) == sorted(found[size:]) and found[:size] != found[size:]


def test_windows_are_small_and_each_has_an_order_of_its_own() -> None:
    corpus = [[6]] * 90
    rows = new_rows(corpus, window_bytes=800)
    cursor, orders = rows.start, []
    while not cursor.get("over"):
        made = rows._at(cursor)
        taken = rows.take(cursor, len(made.rows))
        orders.append([number for _, number in taken.contents])
        cursor = taken.cursor
    whole = [tuple(order) for order in orders if len(order) == len(orders[0])]
    assert len(whole) >= 8 and len(set(whole)) > 6
    assert all(sorted(order) == list(range(len(order))) for order in orders)


@pytest.mark.covers("DAT-32: disjoint split over workers")
def test_ranks_divide_the_rows_of_a_step() -> None:
    rows = new_rows([[9]] * 12, endless=True)
    order = RowOrder(rows, global_batch_size=4, epochs=None)
    taken = order.take(order.start)
    assert taken is not None and len(taken.contents) == 4
    assert taken.row_ids == [(0, 0), (0, 1), (0, 2), (0, 3)]


def _alive() -> Counter[str]:
    """How many objects there are of each kind that a stream makes."""
    gc.collect()
    kinds = (Document, Placed, Encoded, Skipped, Window, WindowRows, LeftOut)
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds)


@pytest.mark.covers("DAT-21")
def test_no_more_is_kept_of_a_stream_the_longer_it_is() -> None:
    threads = 2
    bad = Skipped("here", 1, "E101", "not JSON")

    def read(number: int, begin: Where | None, left_out: LeftOut) -> Iterator[Placed]:
        for place in range(begin[0] if begin else 0, 900):
            for _ in range(30):
                left_out.skip(bad)
            yield Placed([place], Document(f"{place} 1 2 3 4 5 6", None, "here", 1))

    options = StreamOptions(seq_length=5, window_bytes=500, threads=threads, seed=3)
    rows = StreamedRows(read, encode, options)
    before, cursor, seen = _alive(), rows.start, []
    for at in (180, 540, 900):
        while cursor["rows"] < at:
            cursor = stored(rows.take(cursor, 100).cursor)
        seen.append(_alive() - before)
    rows.close()
    most = 60 * (threads + 3)  # a window has 7 documents
    assert all(count <= most for some in seen for count in some.values()), seen
    assert seen[2].total() <= seen[0].total() + 40, seen
    assert cursor["skipped"] > 900 * TOLD


def test_of_records_left_out_the_first_are_named_and_all_are_counted() -> None:
    one, other = LeftOut(), LeftOut()
    for number in range(3 * TOLD):
        (one if number < 5 else other).skip(Skipped("here", number, "E101", "bad"))
    assert len(one.first) == 5 and len(other.first) == TOLD
    other.remove(4, False)
    other.remove(2, True)
    one.take(other)
    assert (one.count, one.characters, one.texts) == (3 * TOLD, 6, 1)
    assert [record.line for record in one.first] == list(range(TOLD))
    assert other == LeftOut()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(corpora, min_size=2, max_size=3),
    st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3),
    st.integers(1, 7),
    st.integers(0, 30),
)
def test_streamed_sources_hold_their_shares_and_go_on_anywhere(
    corpora: list[Corpus], weights: list[float], step: int, changed_at: int
) -> None:
    """Every source gives the rows that it has alone, within one row of its share."""
    parts = {
        f"s{n}": (lambda one=one: new_rows(one, endless=True))
        for n, one in enumerate(corpora)
    }
    shares = tuple(w / sum(weights[: len(parts)]) for w in weights[: len(parts)])
    other = (1.0, *[0.0] * (len(parts) - 1))

    def run(size: int, anew: bool) -> list[tuple[int, tuple[int, ...]]]:
        def made() -> StreamedMixture:
            streams = {name: make() for name, make in parts.items()}
            return StreamedMixture(streams, ShareSchedule(((0, shares),)))

        one = made()
        cursor, found = stored(one.start), []
        for end in (changed_at, 40):
            while (left := end - one.rows_before(cursor)) > 0:
                taken = one.take(cursor, min(size, left))
                cursor = stored(taken.cursor)
                for (_, row), content in zip(
                    taken.row_ids, taken.contents, strict=True
                ):
                    tokens, _ = gathered([content], 5)
                    found.append((row >> 40, tuple(tokens.tokens.tolist())))
                one = made() if anew else one
            cursor = one.with_weights(cursor, other)
        return found

    found = run(step, anew=True)
    assert found == run(40, anew=False)
    counts = [0] * len(parts)
    for number, (source, _) in enumerate(found[:changed_at], start=1):
        counts[source] += 1
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - number * share) < 1 + 1e-6
    assert {source for source, _ in found[changed_at:]} <= {0}
    for source, make in enumerate(parts.values()):
        mine = [tokens for one, tokens in found if one == source]
        alone = make()
        taken = alone.take(alone.start, len(mine)) if mine else None
        given = [gathered([c], 5)[0].tokens for c in taken.contents] if taken else []
        assert mine == [tuple(one.tolist()) for one in given]
