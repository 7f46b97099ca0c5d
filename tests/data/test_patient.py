"""Reading errors that pass by themselves are waited for, and told of."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import time
from pathlib import Path

import pytest

from lumina.data.sources import patient as module
from lumina.data.sources.patient import WAITS, patient, tell_retries
from mechanisms import mechanism
from stand_ins import stand_in
from tiny_runs import Runs


class Failing(io.FileIO):
    """A file that fails to be read every second time, as often as `left` says."""

    left, number, reads = 0, errno.EIO, 0

    def readinto(self, buffer) -> int:
        Failing.reads += 1
        if Failing.left and Failing.reads % 2 == 0:
            Failing.left -= 1
            raise OSError(Failing.number, os.strerror(Failing.number))
        return super().readinto(memoryview(buffer)[: 1 + len(buffer) // 7])


@pytest.fixture
def told(monkeypatch):
    """What was told; files fail, and no time passes."""
    events, waited = [], []
    monkeypatch.setattr(module, "io", stand_in(io, FileIO=Failing))
    monkeypatch.setattr(module, "time", stand_in(time, sleep=waited.append))
    monkeypatch.setattr(Failing, "left", 3)
    monkeypatch.setattr(Failing, "number", errno.ESTALE)
    monkeypatch.setattr(Failing, "reads", 0)
    tell_retries(events.append)
    yield events, waited
    tell_retries(lambda event: None)


@mechanism(
    "reading error that passes",
    component="data",
    failure="reads of a file fail for a while (ESTALE), as a network drive does",
    recovery="go on",
    expected="read on at the same place, with events; the bytes are right",
    real=False,
)
@pytest.mark.covers("TRN-36: retry around I/O failures")
def test_a_file_is_read_on_at_the_place_where_it_failed(tmp_path: Path, told) -> None:
    events, waited = told
    path, content = tmp_path / "data.txt", os.urandom(300_000)
    path.write_bytes(content)
    with patient(path) as file:
        assert file.read() == content
        file.seek(17)
        assert file.read(5) == content[17:22] and file.tell() == 22
    assert [event["attempt"] for event in events] == [1, 1, 1]
    assert waited == [WAITS[0]] * 3
    assert str(path) in events[0]["message"] and "Stale" in events[0]["message"]


@mechanism(
    "reading error that stays",
    component="data",
    failure="reads of a file fail each time",
    recovery="refuse",
    expected="after some waiting the error stands",
    real=False,
)
def test_what_does_not_pass_stands(tmp_path: Path, told, monkeypatch) -> None:
    events, waited = told
    path = tmp_path / "data.txt"
    path.write_bytes(bytes(100))
    monkeypatch.setattr(Failing, "left", 99)
    monkeypatch.setattr(Failing, "readinto", _never)
    with patient(path) as file, pytest.raises(OSError, match="Stale"):
        file.read()
    assert tuple(waited) == WAITS and len(events) == len(WAITS)
    monkeypatch.setattr(Failing, "number", errno.EACCES)
    with patient(path) as file, pytest.raises(PermissionError):
        file.read()
    with pytest.raises(FileNotFoundError):
        patient(tmp_path / "none")
    assert len(events) == len(WAITS), "nothing else is tried again"


def _never(file, buffer) -> int:
    raise OSError(Failing.number, os.strerror(Failing.number))


@pytest.mark.thorough
@pytest.mark.covers("TRN-36: retry around I/O failures")
def test_a_run_reads_on_and_says_so(tmp_path: Path, told, monkeypatch) -> None:
    """A compressed file among them is not taken for a damaged one."""
    runs = Runs(tmp_path, monkeypatch)
    runs.data.write_text("")
    packed = tmp_path / "story.txt.gz"
    words = " ".join(f"The cat went up hill {n} and down again." for n in range(900))
    packed.write_bytes(gzip.compress(words.encode()))
    run = runs.train(train_data=(str(packed),), steps=1)
    kinds = [event["kind"] for event in run.events]
    assert kinds.count("reading_again") == 3
    assert "data_skipped" not in kinds
    assert json.dumps(run.rows)
