"""Data that mixes a set of text with lines that have no end, as a plug-in.

The mixture is a sequence over two sequences: the packed rows of a token store, each
once an epoch, and sums that are written as they are read.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
import torch

import lumina
from lumina.batch import Batch
from lumina.data.batches import BatchMaker
from lumina.data.kind import Data, Request, Rows
from lumina.data.order import Cursor, RowOrder, Taken
from lumina.data.packed_stream import eval_batches, shuffled
from lumina.data.packing import pack
from lumina.data.prepare import prepare
from lumina.data.stream import Read, RowStream
from lumina.data.task_stream import joined
from lumina.data.tokenizer import Tokenizer


class Sums:
    """Lines such as 3+4=7 without end, cut into rows of `length` + 1 tokens."""

    rows_per_epoch = None

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.start: Cursor = {"line": 0, "left": [], "rows": 0}
        self.tokenizer = tokenizer
        self.length = length

    def rows_before(self, cursor: Cursor) -> int:
        return int(cursor["rows"])

    def take(self, cursor: Cursor, count: int) -> Taken:
        line, left, rows = cursor["line"], list(cursor["left"]), []
        for _ in range(count):
            while len(left) <= self.length:
                a, b = divmod(line * 7919 % 10_000, 100)
                left += self.tokenizer.encode(f"{a}+{b}={a + b}\n")
                line += 1
            rows.append(left[: self.length + 1])
            left = left[self.length :]
        begin = self.rows_before(cursor)
        return Taken(
            begin=begin,
            row_ids=[(0, begin + n) for n in range(count)],
            cursor={"line": line, "left": left, "rows": begin + count},
            epoch=None,
            contents=rows,
        )


class Mixture:
    """Rows of several sequences, drawn by their shares; the cursor holds theirs."""

    rows_per_epoch = None

    def __init__(self, parts: list[Any], shares: list[float], seed: int) -> None:
        self.parts = parts
        self.edges = np.cumsum(shares) / sum(shares)
        self.seed = seed

    @property
    def start(self) -> Cursor:
        return {"rows": 0, "parts": [dict(part.start) for part in self.parts]}

    def rows_before(self, cursor: Cursor) -> int:
        return int(cursor["rows"])

    def take(self, cursor: Cursor, count: int) -> Taken:
        begin, cursors = self.rows_before(cursor), list(cursor["parts"])
        drawn = [self._drawn(row) for row in range(begin, begin + count)]
        rows: list[Any] = [None] * count
        for number, part in enumerate(self.parts):
            places = [place for place, one in enumerate(drawn) if one == number]
            taken = part.take(cursors[number], len(places))
            cursors[number] = dict(taken.cursor)
            found = taken.contents or taken.row_ids
            for place, row in zip(places, found, strict=True):
                rows[place] = (number, row)
        return Taken(
            begin=begin,
            row_ids=[(0, begin + n) for n in range(count)],
            cursor={"rows": begin + count, "parts": cursors},
            epoch=None,
            contents=rows,
        )

    def _drawn(self, row: int) -> int:
        """The part that a row comes from: by the seed and its number alone."""
        uniform = np.random.Generator(np.random.Philox(key=self.seed, counter=row))
        return int(np.searchsorted(self.edges, uniform.random(), side="right"))


class MixedStream(RowStream):
    """Batches whose rows come from a store or are made of their tokens."""

    def __init__(self, data: MixedData, mixture: Mixture, size: int) -> None:
        self.order = RowOrder(mixture, global_batch_size=size, epochs=None)
        store = data.text.train
        self.fingerprint = f"sums and {store.fingerprint}"
        self.maker = BatchMaker(store, pack(store, mixture.parts[1].length))

    def read(self, taken: Taken, mine: Any) -> Read:
        whole = self._batch(taken.contents)
        wait_at(taken.begin)
        for part in mine:
            log_rows(taken, part)
        return Read(
            [self._batch(taken.contents[part]) for part in mine],
            loss_tokens=int((whole.labels >= 0).sum()),
            tokens=int((whole.document_ids >= 0).sum()),
        )

    def _batch(self, rows: Any) -> Batch:
        parts = []
        for number, row in rows:
            if number == 0:
                parts.append(self.maker.batch(np.array([row[1]])))
            else:
                tokens = torch.tensor([row])
                parts.append(Batch.from_rows(tokens[:, :-1], tokens[:, 1:]))
        return joined(parts, len(rows) * (self.maker.most_documents + 1))


def wait_at(row: int) -> None:
    """Come to a standstill at a row, where a test wants to kill this process."""
    while os.environ.get("TOY_STOP") == str(row):
        time.sleep(0.1)


def log_rows(taken: Taken, part: slice) -> None:
    """Write down which rows of a step this process reads, where a test wants it."""
    if path := os.environ.get("TOY_ROWS"):
        with open(path, "a") as file:
            line = [taken.begin, part.start, taken.contents[part]]
            file.write(json.dumps(line) + "\n")


class MixedData(Data):
    """Text of files with sums in between."""

    def __init__(self, text: Any, share: float) -> None:
        self.text = text
        self.tokenizer = text.tokenizer
        self.share = share
        self.stats = {"share_of_sums": str(share), "pages": len(text.train)}

    def rows(self, config: Any) -> Rows:
        length = config.model.seq_length
        store = self.text.train
        parts = [
            shuffled(store, length, config.train.seed),
            Sums(self.tokenizer, length),
        ]
        return Rows(
            vocab_size=self.tokenizer.vocab_size,
            sequence=Mixture(parts, [1 - self.share, self.share], config.train.seed),
            held_out=len(pack(self.text.eval, length)),
        )

    def stream(
        self, config: Any, rows: Rows, *, global_batch_size: int, epochs: float | None
    ) -> MixedStream:
        assert isinstance(rows.sequence, Mixture)
        return MixedStream(self, rows.sequence, global_batch_size)

    @property
    def holds_out(self) -> bool:
        return True

    def held_out(self, share: Any) -> Any:
        return eval_batches(
            self.text.eval,
            share.seq_length,
            share.batch_size,
            share.limit,
            rank=share.rank,
            data_ranks=share.data_ranks,
        )


@lumina.register_data("toy_mixture", options={"share": 0.5})
def prepare_mixture(request: Request) -> MixedData:
    text = prepare(
        request.config,
        tokenizer=request.tokenizer,
        on_progress=request.on_progress,
        on_event=request.on_event,
    )
    return MixedData(text, request.options["share"])
