"""Options of loading: how data of any size reaches the model."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina.config import Config
from lumina.data.prefetch import Prefetcher
from lumina.data.prepare import prepare
from lumina.data.shards import Shards
from lumina.data.store import TokenStore
from lumina.data.stream import RowStream, StepBatches
from lumina.train.stopping import Stops
from option_effects import shows
from tiny_runs import Program, Runs, nothing, seen


@pytest.mark.covers("DAT-22: force memory loading")
@shows("data_loading")
def loading(runs: Runs) -> None:
    """The tokens are mapped from disk, or read into memory; the run is the same."""
    kinds: list[type] = []
    read = TokenStore.read_into_memory
    runs.monkeypatch.setattr(
        TokenStore,
        "read_into_memory",
        lambda self: (kinds.append(type(self.tokens)), read(self))[1],
    )
    mapped, held = runs.both("data_loading", "sharded", "memory")
    assert kinds == [np.memmap] * 2  # the training data and what is held out
    assert mapped.column("loss") == held.column("loss")


@pytest.mark.covers("DAT-28: linear mode")
@shows("linear_dataset")
def linear(runs: Runs) -> None:
    shuffled, linear = (
        _first_rows(runs, linear_dataset=False),
        _first_rows(runs, linear_dataset=True),
    )
    assert linear == list(range(12)) and sorted(shuffled) != linear


@pytest.mark.covers("DAT-28: start offset")
@shows("dataset_start_offset")
def start_offset(runs: Runs) -> None:
    (first, *_) = _first_rows(runs, linear_dataset=True, dataset_start_offset=50)
    assert 20 < first < 50
    with_offset = {"linear_dataset": True, "dataset_start_offset": 10**6}
    assert "passes over all" in runs.refused("E005", **with_offset)
    assert "shuffled" in runs.refused("E002", dataset_start_offset=50)


def _first_rows(runs: Runs, **leaves: Any) -> list[int]:
    rows: list[list[int]] = []
    runs.train(seen(lambda p, b: [r for _, r in b.row_ids], rows), **leaves)
    return [row for step in rows for row in step]


@pytest.mark.covers("DAT-29: --iterate endless cycles")
@shows("iterate")
def iterate(runs: Runs) -> None:
    few = {"train_data": (str(runs.data),), "global_batch_size": 32, "steps": 9}
    once, again = runs.both("iterate", False, True, **few)
    assert once.result.steps < again.result.steps == 9
    assert "how long" in runs.refused("E002", iterate=True, steps=None)
    assert "epochs" in runs.refused("E002", iterate=True, epochs=2)


@pytest.mark.covers("DAT-29: --stop-after-epoch")
@shows("stop_after_epoch")
def after_the_epoch(runs: Runs) -> None:
    long = {"global_batch_size": 32, "steps": 12}
    on, off = runs.both("stop_after_epoch", True, False, **long)
    assert on.result.steps < off.result.steps and on.result.exit_code == 0
    assert on.cursor["epoch"] == 1 and "epoch is over" in on.result.reason
    again = runs.train(
        resume=str(on.folder), run_dir=None, stop_after_epoch=True, **long
    )
    assert again.cursor["epoch"] == 2


@pytest.mark.covers("DAT-29: --stop-file")
@shows("stop_file")
def stop_file(runs: Runs) -> None:
    file = runs.folder / "stop"
    runs.monkeypatch.setattr("lumina.train.stopping.LOOK_SECONDS", 0.0)

    def create(program: Program, batches: StepBatches) -> AbstractContextManager[Any]:
        if Stops(str(file)).asked or runs.ignored == "stop_file":
            return nothing()
        file.touch()
        return nothing()

    run = runs.train(create, stop_file=str(file), steps=9)
    assert run.result.steps == 2 and run.result.exit_code == 0
    assert run.checkpoints and str(file) in run.result.reason
    assert "already" in runs.refused("E002", stop_file=str(file))


@pytest.mark.covers("DAT-25: --prefetch-factor", "DAT-23: batch prefetch")
@shows("prefetch_factor")
def steps_ahead(runs: Runs) -> None:
    depths = _prefetchers(runs)
    for depth in (1, 5):
        runs.train(prefetch_factor=depth, steps=1)
    assert depths == [1, 5]


@pytest.mark.covers("DAT-26")
@pytest.mark.thorough
@shows("prefetch_threads")
def threads_ahead(runs: Runs) -> None:
    """Threads read ahead; the run is the same with any number of them."""
    names: set[str] = set()
    made = RowStream.made

    def spy(self: RowStream, *arguments: Any) -> Any:
        names.add(threading.current_thread().name.partition("_")[0])
        return made(self, *arguments)

    runs.monkeypatch.setattr(RowStream, "made", spy)
    losses = []
    for count, name in ((1, "data"), (0, "MainThread"), (4, "reading")):
        names.clear()
        run = runs.train(prefetch_threads=count, steps=4)
        losses.append(run.column("loss"))
        assert names == {name if name == "MainThread" else f"lumina-{name}"}
    assert losses[0] == losses[1] == losses[2]
    earlier = Config(experimental_prefetch_threads=3, prefetch_buffer_size=8)
    assert earlier.get("prefetch_threads") == 3 and earlier.get("prefetch_factor") == 8


def _prefetchers(runs: Runs) -> list[int]:
    found: list[int] = []
    init = Prefetcher.__init__

    def spy(self: Prefetcher, *args: Any, **keys: Any) -> None:
        init(self, *args, **keys)
        found.append(self._made.maxsize)

    runs.monkeypatch.setattr(Prefetcher, "__init__", spy)
    return found


@pytest.mark.covers("DAT-25: --pin-memory")
@shows("pin_memory")
def page_locked(runs: Runs) -> None:
    runs.train(pin_memory=False, steps=1)
    assert "GPU" in runs.refused("E002", pin_memory=True, device="cpu")


@shows("streaming_threshold_gb")
def threshold(runs: Runs) -> None:
    from lumina.data.loading import choose_loading

    ways = [
        choose_loading(runs.config(streaming_threshold_gb=most)).way
        for most in (10.0, 1e-6)
    ]
    assert ways == ["memory", "streaming"]


@shows("shuffle_buffer")
def rows_shuffled_together(runs: Runs) -> None:
    stream = {"data_loading": "streaming"}
    few, many = runs.both("shuffle_buffer", 1, 64, **stream)
    assert few.cursor["window"] > many.cursor["window"]
    assert few.column("loss") != many.column("loss")


@pytest.mark.covers("DAT-22: shard size")
@shows("shard_size_mb")
def shards_of_the_text(runs: Runs) -> None:
    sizes: list[int] = []
    init = Shards.__init__

    def spy(self: Shards, folder: Path, size: int, *rest: Any) -> None:
        sizes.append(size)
        init(self, folder, size, *rest)

    runs.monkeypatch.setattr(Shards, "__init__", spy)
    for size in (0, 3):
        cache = str(runs.folder / f"cache{size}")
        runs.monkeypatch.setenv("LUMINA_CACHE", cache)
        prepare(runs.config(shard_size_mb=size, data_loading="sharded"))
    assert sizes == [3 * 10**6]


@pytest.mark.covers("DAT-23: dynamic batching")
@shows("packing")
def packed_rows(runs: Runs) -> None:
    """Rows of one document, with the same labels, in batches that are less wide."""
    widths: list[int] = []
    look = seen(lambda p, b: b.micro_batches[0].input_ids.shape[1], widths)
    one = {"epochs": 1, "steps": None, "seq_length": 128, "eval_fraction": 0.0}
    packed = runs.train(look, packing=True, **one)
    assert set(widths) == {128}
    widths.clear()
    alone = runs.train(look, packing=False, **one)
    assert set(widths) == {32} and alone.result.steps > packed.result.steps
    taught = [sum(run.column("loss_tokens")) for run in (packed, alone)]
    assert taught[0] == taught[1]
    assert "packed" in runs.refused("E002", packing=False, data_loading="streaming")
