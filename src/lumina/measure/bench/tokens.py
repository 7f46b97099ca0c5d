"""Tokens a second: Lumina's ways beside the tokenizers library and `datasets.map`.

All make the ids of the same documents with the same tokenizer on the same cores, in
turns, so that what else the machine does weighs on all of them alike. A processor's
seconds are counted beside those of the clock: they say how much work it is.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

from lumina.config import Config
from lumina.data.documents import read_documents
from lumina.data.streaming.sequence import StreamedRows
from lumina.data.streaming.streamed_data import StreamedData
from lumina.data.streaming.text_source import TextSource
from lumina.data.tokenise import encode_documents
from lumina.data.tokenizer import Tokenizer

CACHED = "tokenizers, cache as Lumina's"
"""The library alone with the larger cache of words that Lumina asks it for."""

BATCH = 256
"""Documents that are given to the tokenizers library at a time."""


def measure_tokens(
    file: Path, tokenizer: Tokenizer, *, cores: int, rounds: int
) -> dict[str, Any]:
    """Compare the ways.

    Args:
        file: JSON lines with a text each.
        tokenizer: the tokenizer.
        cores: threads or processes of each way.
        rounds: how often each way has its turn, after one turn that does not count.

    Returns:
        For each way its tokens a second (`wall`, `cpu`; medians), and `wall_ratio`
        and `cpu_ratio`, the medians over the rounds of its speed beside that of the
        library in the round.
    """
    # The library makes its threads when it is first used.
    os.environ.setdefault("RAYON_NUM_THREADS", str(cores))
    texts = [document.text or "" for document in read_documents([file])]
    alone = _by_itself(tokenizer)
    ways: dict[str, Callable[[], int]] = {
        "tokenizers": lambda: _library(texts, alone),
        CACHED: lambda: _library(texts, tokenizer.backend),
        "store": lambda: _store(file, tokenizer, cores),
        "stream": lambda: _stream(file, tokenizer, cores),
    }
    if (mapped := _mapped(file, tokenizer, cores)) is not None:
        ways["datasets.map"] = mapped
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            speed = _timed(way)
            if turn:
                found[name].append(speed)
    base = found["tokenizers"]
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in speeds),
            "cpu": statistics.median(cpu for _, cpu in speeds),
            "wall_ratio": statistics.median(
                one[0] / other[0] for one, other in zip(speeds, base, strict=True)
            ),
            "cpu_ratio": statistics.median(
                one[1] / other[1] for one, other in zip(speeds, base, strict=True)
            ),
        }
        for name, speeds in found.items()
    }


def measure_work(file: Path, tokenizer: Tokenizer, folder: Path) -> dict[str, float]:
    """Each way's speed beside the library's, by the work of one thread.

    The ways take turns at every half megabyte, so that what else the machine does
    weighs on all of them alike; the medians over these turns are compared.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    alone = _by_itself(tokenizer)
    lines = file.read_bytes().splitlines(keepends=True)
    found: dict[str, list[float]] = {}
    for begin in range(0, len(lines), BATCH):
        part = folder / f"part-{begin}.jsonl"
        part.write_bytes(b"".join(lines[begin : begin + BATCH]))
        texts = [document.text or "" for document in read_documents([part])]
        ways: dict[str, Callable[[], int]] = {
            "tokenizers": partial(_library, texts, alone, "false"),
            CACHED: partial(_library, texts, tokenizer.backend, "false"),
            "store": partial(_store, part, tokenizer, 0),
            "stream": partial(_all_rows, streamed_rows(part, tokenizer, 0)),
        }
        # The first of them finds the words of a text in no cache yet.
        turn = begin // BATCH % len(ways)
        for name in (*list(ways)[turn:], *list(ways)[:turn]):
            began = time.thread_time()
            ways[name]()
            found.setdefault(name, []).append(time.thread_time() - began)
    return {
        name: statistics.median(
            base / took for base, took in zip(found["tokenizers"], times, strict=True)
        )
        for name, times in found.items()
    }


def _timed(way: Callable[[], int]) -> tuple[float, float]:
    """Tokens a second of the clock, and of the processors' work."""
    before, began = sum(os.times()[:4]), time.perf_counter()
    tokens = way()
    took = time.perf_counter() - began
    return tokens / took, tokens / max(sum(os.times()[:4]) - before, 1e-3)


def _by_itself(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The vocabulary as the library alone reads it, with the library's own cache."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    return backend


def _library(
    texts: list[str], backend: tokenizers.Tokenizer, threads: str = "true"
) -> int:
    """The library alone: texts that are in memory, its own threads or none."""
    os.environ["TOKENIZERS_PARALLELISM"] = threads
    tokens = 0
    for begin in range(0, len(texts), BATCH):
        for one in backend.encode_batch_fast(
            texts[begin : begin + BATCH], add_special_tokens=False
        ):
            tokens += len(one.ids)
    return tokens


def _store(file: Path, tokenizer: Tokenizer, cores: int) -> int:
    """As a token store is filled, with reading; what is written is not counted."""
    documents = ((False, document) for document in read_documents([file]))
    encoded = encode_documents(documents, tokenizer, loss_on="all", threads=cores)
    return sum(len(one.ids) for one in encoded)


def _stream(file: Path, tokenizer: Tokenizer, cores: int) -> int:
    """Packed rows of a streamed run, with reading."""
    return _all_rows(streamed_rows(file, tokenizer, cores))


def _all_rows(rows: StreamedRows) -> int:
    """The tokens of all rows of a pass."""
    cursor, tokens = rows.start, 0
    while contents := (taken := rows.take(cursor, 64)).contents:
        cursor = taken.cursor
        for window, number in contents:
            packing = window.packing
            first, end = packing.rows[number], packing.rows[number + 1]
            tokens += int(packing.lengths[first:end].sum())
    return tokens


def streaming_config(path: Path, cores: int) -> Config:
    """The settings of a streamed run."""
    return Config(
        train_data=(str(path),),
        data_loading="streaming",
        num_workers=cores,
        seq_length=2048,
    )


def streamed_rows(path: Path, tokenizer: Tokenizer, cores: int) -> StreamedRows:
    """The rows of a streamed run on this data."""
    config = streaming_config(path, cores).replace(eval_fraction=0.0)
    data = StreamedData(TextSource(config), tokenizer, None, {})
    sequence = data.rows(config).sequence
    assert isinstance(sequence, StreamedRows)
    return sequence


def _mapped(file: Path, tokenizer: Tokenizer, cores: int) -> Callable[[], int] | None:
    """`datasets.map` on as many processes; None where the library is not installed.

    The data set is loaded before, which the time does not count.
    """
    try:
        import datasets
    except ImportError:
        return None
    datasets.disable_progress_bars()
    folder = tempfile.mkdtemp()
    try:
        loaded = datasets.load_dataset(
            "json", data_files=str(file), split="train", cache_dir=folder
        )
        table = loaded.with_format(None)
        columns = {name: table[name][:] for name in ("text",)}
        kept = datasets.Dataset.from_dict(columns)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    backend = _by_itself(tokenizer)

    def ids(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = backend.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [one.ids for one in found]}

    def run() -> int:
        os.environ["TOKENIZERS_PARALLELISM"] = "false" if cores > 1 else "true"
        made = kept.map(
            ids,
            batched=True,
            batch_size=BATCH,
            remove_columns=["text"],
            num_proc=cores if cores > 1 else None,
            load_from_cache_file=False,
        )
        return sum(map(len, made["ids"]))

    return run
