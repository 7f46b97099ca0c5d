"""What stands among the data and cannot be read: loops, pipes, closed files, noise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fault_runs import assert_sound
from mechanisms import mechanism
from training import assert_same_run


@pytest.fixture
def data(faulty, tmp_path):
    """A copy of the data, which runs of the test read."""
    faulty.trainings.data = Path(shutil.copytree(faulty.trainings.data, tmp_path / "d"))
    return faulty.trainings.data


def a_loop_of_links(data):
    (data / "again").symlink_to(data, target_is_directory=True)
    (data / "round.txt").symlink_to(data / "about.txt")
    (data / "about.txt").symlink_to(data / "round.txt")


def a_pipe(data):
    os.mkfifo(data / "pipe.txt")


def noise(data):
    (data / "noise.txt").write_bytes(bytes(range(256)) * 40)


def an_empty_file(data):
    (data / "empty.txt").write_bytes(b"")


def half_a_record(data):
    (data / "more.jsonl").write_text('{"text": "whole"}\n{"text": "ha')


@mechanism(
    "loop of links",
    component="data",
    failure="a folder of data links to itself, and two files to each other",
    recovery="refuse",
    expected="ends with a code that names the link, and does not follow it for ever",
    case="a_loop_of_links",
)
@mechanism(
    "pipe among the data",
    component="data",
    failure="a named pipe stands among the files: to open it waits for ever",
    recovery="leave out",
    expected="it is not opened, which is said; figures as without it",
    case="a_pipe",
)
@mechanism(
    "noise among the data",
    component="data",
    failure="a file of data holds bytes that are no text",
    recovery="refuse",
    expected="E103 names the file; no run is begun",
    case="noise",
)
@mechanism(
    "empty file among the data",
    component="data",
    failure="a file of data has no bytes",
    recovery="refuse",
    expected="E105 names the file; no run is begun",
    case="an_empty_file",
)
@mechanism(
    "half a record among the data",
    component="data",
    failure="a file of records ends in half a record",
    recovery="refuse",
    expected="E101 names the file and the line; no run is begun",
    case="half_a_record",
)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("act", "code"),
    [
        (a_loop_of_links, "E"),
        (a_pipe, None),
        (noise, "E103"),
        (an_empty_file, "E105"),
        (half_a_record, "E101"),
    ],
    ids=lambda case: case.__name__ if callable(case) else "",
)
def test_what_cannot_be_read(faulty, data, act, code):
    act(data)
    ended, said = faulty.ended()
    assert "Traceback" not in said
    if code is None:
        assert ended == 0, said
        assert "pipes, sockets and devices (1)" in " ".join(said.split())
        assert_same_run(faulty.folder / "run", faulty.undisturbed)
        assert_sound(faulty.folder / "run")
    else:
        assert ended == 1 and code in said, said
        assert not (faulty.folder / "run").exists()
