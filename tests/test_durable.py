"""Files that several processes write at once: none fails, no entry is lost.

What another process does meanwhile is done here at that very moment, by a call in the
place where it hurts most. A lock of one open file keeps out another one of the same
process too, so that this is the same as with two processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from pathlib import Path

import pytest

import lumina.cli.run_files
import lumina.plan.measured_once
import lumina.state.expert_registry
import lumina.state.left_behind
import lumina.train.memory_ladder.limits
from interleaved import at_first
from lumina.cli.main import main
from lumina.data.cache import build_once
from lumina.durable import changing, write_file
from lumina.errors import LuminaError
from lumina.plan.measured_once import known_numbers, measured_once
from lumina.state.expert_registry import Registry
from lumina.state.left_behind import leave_results
from lumina.state.liveness import is_locked
from lumina.state.run_directory import RunDirectory
from lumina.train.memory_ladder.limits import Limits
from training import start_process, wait_until


def test_another_may_write_the_file_between_two_steps_of_this_writer(
    tmp_path, monkeypatch
):
    path = tmp_path / "file.json"
    at_first(monkeypatch, os, "replace", lambda *names: write_file(path, b"of another"))
    write_file(path, b"of this one")
    assert path.read_bytes() == b"of this one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_temporary_file_is_not_taken_for_abandoned_before_it_is_locked(
    tmp_path, monkeypatch
):
    path = tmp_path / "file.json"
    at_first(monkeypatch, fcntl, "flock", lambda file, how: os.unlink(file.name))
    write_file(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_writer_that_fails_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_file(path, b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def _never_ends(path: Path, reached: Path) -> None:
    def replace(*names):
        reached.touch()
        while True:
            time.sleep(1)

    os.replace = replace
    write_file(path, b"never there")


def test_what_a_killed_writer_left_goes_and_what_a_living_one_needs_stays(tmp_path):
    path, reached = tmp_path / "run" / "file.json", tmp_path / "reached"
    path.parent.mkdir()
    other = path.with_name(".other.json.0123abcd.tmp")  # of another file, left too
    other.touch()
    process = start_process(_never_ends, path, reached)
    assert wait_until(reached.exists)
    write_file(path, b"beside it")
    assert len(list(path.parent.iterdir())) == 3, "the living writer's file is gone"
    process.kill()
    process.join()
    write_file(path, b"after it")
    assert path.read_bytes() == b"after it"
    assert sorted(path.parent.iterdir()) == [other, path]


def _number(folder, name):
    measured_once("numbers.json", name, lambda: 2.0)


def _limit(folder, name):
    Limits(name).remember({}, "memory ran out", proven=True)


def _result(folder, name):
    leave_results(RunDirectory(folder), {name: "1"})


def _tag(folder, name):
    assert main(["runs", "tag", str(folder), name]) == 0


def _expert(folder, name):
    registry = Registry(folder)  # which is read long before it is changed
    with registry.changing():
        registry.create(name)


def _limits_known():
    return {name for name in ("one", "two") if Limits(name).known()}


@pytest.mark.parametrize(
    ("module", "enter", "entered"),
    [
        (
            lumina.plan.measured_once,
            _number,
            lambda folder: set(known_numbers("numbers.json")),
        ),
        (
            lumina.train.memory_ladder.limits,
            _limit,
            lambda folder: _limits_known(),
        ),
        (
            lumina.state.left_behind,
            _result,
            lambda folder: set(json.loads((folder / "results.json").read_bytes())),
        ),
        (
            lumina.cli.run_files,
            _tag,
            lambda folder: set(lumina.cli.run_files.tags_of(folder)),
        ),
        (
            lumina.state.expert_registry,
            _expert,
            lambda folder: set(Registry(folder).entries),
        ),
    ],
    ids=["numbers", "limits", "results", "tags", "experts"],
)
def test_two_at_once_lose_no_entry(
    tmp_path, monkeypatch, capsys, module, enter, entered
):
    """The other one was first to the lock; and while one writes, no third gets it."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.yaml").touch()

    def locked(path, content):
        lock = path.with_name(f".{path.name}.lock")
        with open(lock) as held, pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_file(path, content)

    monkeypatch.setattr(module, "write_file", locked)
    at_first(monkeypatch, module, "changing", lambda path: enter(tmp_path, "two"))
    enter(tmp_path, "one")
    assert entered(tmp_path) == {"one", "two"}


def test_a_lock_goes_with_an_error_inside_it(tmp_path):
    path = tmp_path / "file.json"
    with contextlib.suppress(KeyError), changing(path):
        raise KeyError
    with changing(path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path, monkeypatch, number
):
    def none(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    path = tmp_path / "values.json"
    with changing(path):
        write_file(path, b"1")
    assert path.read_bytes() == b"1"


def test_what_needs_locks_says_where_there_are_none(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(LuminaError, match="no file locks") as run:
        RunDirectory(tmp_path / "run").acquire()
    with pytest.raises(LuminaError, match="LUMINA_CACHE") as cache:
        build_once(tmp_path / "cache", "key", lambda into: None, lambda found: None)
    assert run.value.code == cache.value.code == "E003"
    assert (tmp_path / "run" / ".lock").exists()
    assert not is_locked(tmp_path / "run")


def test_a_lock_that_is_refused_for_another_reason_is_an_error(tmp_path, monkeypatch):
    def interrupted(file, how):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", interrupted)
    with pytest.raises(OSError, match="Bad file"), changing(tmp_path / "values.json"):
        pass
