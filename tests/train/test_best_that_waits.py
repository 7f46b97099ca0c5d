"""A best model whose disk is busy waits in memory, and steps do not wait for it."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from lumina.assemble.ranks import meeting_place
from lumina.state.reader import latest_good, open_checkpoint
from lumina.state.writer import Writing
from lumina.train import loop, saving
from tiny_runs import Runs
from training import DENSE, PATIENCE, checkpoints, column, events, start, words

JUDGED = {"eval_every_n_batches": 1, "eval_fraction": 0.2}


@pytest.fixture
def runs(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Runs:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
    return Runs(tmp_path, monkeypatch)


@pytest.fixture
def gate(monkeypatch):
    """The disk takes nothing until this is set."""
    opened, write = threading.Event(), Writing.run

    def run(writing):
        assert opened.wait(PATIENCE)
        write(writing)

    monkeypatch.setattr(Writing, "run", run)
    yield opened
    opened.set()


def at_step(number, act):
    """Does something before the step of that number."""
    count = iter(range(1, 1000))

    def around(program, batches):
        if next(count) == number:
            act()
        return contextlib.nullcontext()

    return around


def told(run, kind):
    return [event["step"] for event in run.events if event["kind"] == kind]


def test_steps_go_on_while_the_disk_is_busy_and_the_best_is_kept(
    runs: Runs, gate: threading.Event
) -> None:
    run = runs.train(at_step(6, gate.set), steps=6, **JUDGED)
    losses = run.column("eval_loss")
    assert losses == sorted(losses, reverse=True) and len(losses) == 6
    assert told(run, "best_overtaken")[:3] == [2, 3, 4]
    written = told(run, "checkpoint_saved")
    assert written[0] == 1 and written[-1] == 6 and not {2, 3, 4} & set(written)
    best = run.folder / "checkpoints" / "BEST"
    assert best.read_text().strip() == "step-00000006"
    assert run.checkpoints == ["step-00000006"]

    gate.set()
    plain = runs.train(steps=6, **JUDGED)
    assert column(plain.folder, "loss") == column(run.folder, "loss")
    assert all((plain.tensors[name] == one).all() for name, one in run.tensors.items())


def test_what_waits_is_written_once_the_disk_is_free(
    runs: Runs, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, trained = loop.keep_best, []

    def two_bests(run, row):
        trained.append(run)
        return keep(run, row) and row["step"] < 3

    monkeypatch.setattr(loop, "keep_best", two_bests)
    folder = runs.folder / "watched"
    seen = []

    def free() -> None:
        gate.set()
        trained[0].checkpoints.idle()

    def look() -> None:
        seen.append(until((folder / "checkpoints" / "step-00000002").exists))

    before, after = at_step(4, free), at_step(5, look)

    def around(program, batches):
        before(program, batches)
        return after(program, batches)

    run = runs.train(around, steps=6, run_dir=str(folder), **JUDGED)
    assert seen == [True] and told(run, "best_overtaken") == []
    assert told(run, "checkpoint_saved") == [1, 2, 6]


def until(true) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_steps_wait_where_memory_has_no_room_for_another_copy(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(saving, "room_for", lambda *given: asked.append(given))
    monkeypatch.setattr(loop.CheckpointStore, "busy", True)
    monkeypatch.setattr(loop.CheckpointStore, "hold", None)
    monkeypatch.setattr(saving.Saving, "catch_up", lambda *_: None)
    run = runs.train(steps=3, **JUDGED)
    assert told(run, "checkpoint_saved") == [1, 2, 3]
    (size, processes), *_ = [given for given in asked if given[0]]
    with open_checkpoint(latest_good(run.folder)) as reader:
        assert size == reader.state().nbytes() and processes == 1


def hold_rank_one(folder, rank):
    """Rank 1's disk is busy until step 5 is trained; rank 0 waits for its part."""
    write = Writing.run

    def run(writing):
        if rank == 1:
            assert until(lambda: column(folder, "step")[-1:] >= [5])
        write(writing)

    Writing.run = run


@pytest.mark.thorough
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_ranks_let_the_same_best_wait(trainings, parallel) -> None:
    name = f"held-{parallel}"
    run = trainings.folder / name
    store, place = meeting_place()
    trainings.folder.mkdir(parents=True, exist_ok=True)
    flags = words(
        f"--parallel {parallel} --steps 6 --eval-every-n-batches 1 --eval-fraction 0.2 "
        "--eval-batches 1 --precision fp32 --global-batch-size 8"
    )
    running = [
        start(
            trainings.command(name, *DENSE, *flags),
            trainings.folder / f"{name}.{rank}.log",
            before=partial(hold_rank_one, run, rank),
            LUMINA_CACHE=str(trainings.folder / f"{name}-cache"),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            **place,
        )
        for rank in range(2)
    ]
    codes = [rank.wait() for rank in running]
    del store
    assert codes == [0, 0], [rank.output for rank in running]
    overtaken = [event["step"] for event in events(run, "best_overtaken")]
    assert overtaken[:2] == [2, 3]
    best = (run / "checkpoints" / "BEST").read_text().strip()
    losses = column(run, "eval_loss")
    assert int(best[-8:]) == 1 + losses.index(min(losses))
    assert best in checkpoints(run)
