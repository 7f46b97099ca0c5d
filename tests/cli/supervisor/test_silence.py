"""When silence counts as a hang, and which rank is named."""

from __future__ import annotations

import faulthandler
from pathlib import Path

import pytest

from lumina import heartbeat
from lumina.cli.supervisor.silence import (
    Watch,
    all_written,
    blamed,
    limits_of,
    main_thread,
)
from lumina.heartbeat import Beat

WAITING = """Current thread 0x01 (most recent call first):
  File "/x/torch/distributed/distributed_c10d.py", line 3 in all_reduce
  File "/x/lumina/train/step.py", line 9 in train_step"""
STUCK = """Current thread 0x01 (most recent call first):
  File "/x/mine.py", line 3 in forward
  File "/x/lumina/train/step.py", line 9 in train_step
  File "/x/torch/autograd/function.py", line 3 in apply"""


def at(step: int, since: float, activity: str = "step", typical: float = 0.1) -> Beat:
    return Beat(activity, since, step, typical)


@pytest.mark.parametrize(
    ("beat", "limit"),
    [
        (at(9, 0.0), 45.0),
        (at(9, 0.0, typical=10.0), 200.0),
        (at(9, 0.0, "evaluating", typical=10.0), 120.0),
        (None, 300.0),
    ],
)
def test_a_step_may_take_as_long_as_steps_of_its_run(beat, limit) -> None:
    report, end = limits_of(beat, 45.0)
    assert report == limit and end > report


def test_silence_begins_with_the_newest_sign_of_any_rank() -> None:
    watch = Watch(2, 45.0, now=0.0)
    beats = [at(7, 100.0), at(7, 50.0)]
    assert watch.look(beats, ["S", "S"], 140.0) is None
    found = watch.look(beats, ["S", "S"], 146.0)
    assert found is not None and (found.step, found.limit) == (7, 45.0)
    assert Watch(2, 0.0, now=0.0).look(beats, ["S", "S"], 9e9) is None, "switched off"
    assert watch.look(beats, ["S", "t"], 9e9) is None, "a debugger holds it"
    watch.forgive(9e9)
    assert watch.look(beats, ["S", "S"], 9e9 + 44) is None, "it was held on purpose"


@pytest.mark.parametrize(
    ("others", "ranks"),
    [
        (at(6, 0.0), (1,)),
        (at(7, 0.0, "waiting for data"), (1,)),
        (at(7, 0.0, "saving"), (1,)),
        (None, (1,)),
        (at(7, 0.0), (0, 1)),
    ],
)
def test_the_rank_that_is_behind_is_named(others, ranks) -> None:
    found = Watch(2, 45.0, now=0.0).look([at(7, 0.0), others], ["S", "S"], 400.0)
    assert found is not None and found.ranks == ranks


def test_a_stopped_rank_is_named_whatever_it_was_doing() -> None:
    watch = Watch(2, 45.0, now=0.0)
    for now in (10.0, 50.0):
        beats = [at(7, now), at(7, 9.0, "evaluating")]
        assert watch.look(beats, ["S", "T"], now) is None
    found = watch.look(beats, ["S", "T"], 56.0)
    assert found is not None and found.stopped and found.ranks == (1,)
    assert watch.look(beats, ["S", "S"], 57.0) is None
    assert watch.look(beats, ["S", "T"], 58.0) is None, "it counts anew"


def test_among_level_ranks_the_one_that_does_not_wait_is_named() -> None:
    assert blamed((0, 1, 2), [WAITING, STUCK, WAITING]) == (1,)
    assert blamed((0, 1), [WAITING, WAITING]) == (0, 1)


def test_the_main_thread_is_the_last_of_the_last_dump(tmp_path: Path) -> None:
    file = tmp_path / "stacks"
    other = STUCK.replace("Current thread 0x01", "Thread 0x02")
    file.write_text(f"{WAITING}\n\n{other}\n\n{STUCK}\n")
    assert main_thread(file) == STUCK
    assert main_thread(tmp_path / "none") == ""


def test_stacks_are_waited_for_to_their_last_frame(tmp_path: Path) -> None:
    """A process that is held up while it writes them has written a part."""
    file = tmp_path / "stacks"
    with open(file, "wb") as out:
        faulthandler.dump_traceback(out, all_threads=True)
    assert all_written(file, 0)
    size = file.stat().st_size
    assert not all_written(file, size), "those of another time"
    lines = file.read_bytes().splitlines(keepends=True)
    with open(file, "ab") as out:
        for line in lines[:-1]:
            out.write(line)
            out.flush()
            assert not all_written(file, size) or b"in <module>" in line
    assert not all_written(tmp_path / "none", 0)


def test_signs_cross_to_another_process(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(heartbeat.FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    try:
        heartbeat.begin()
        for step in range(5, 10):
            heartbeat.beat("waiting for data", step)
            heartbeat.beat("step", step)
        beat = heartbeat.last_beat(tmp_path, 1)
        assert beat is not None
        assert (beat.activity, beat.step) == ("step", 9)
        assert 0 < beat.typical < 60
        heartbeat.beat("saving")
        heartbeat.still()
        later = heartbeat.last_beat(tmp_path, 1)
        assert later is not None and later.since > beat.since
        assert (later.activity, later.step) == ("saving", 9)
    finally:
        heartbeat.end()
    assert heartbeat.last_beat(tmp_path, 0) is None
    heartbeat.beat("step", 11)
    assert heartbeat.last_beat(tmp_path, 1) == later
