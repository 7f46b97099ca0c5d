from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import signal
import time

import numpy
import pytest
import torch

from interleaved import at_first
from lumina.errors import LuminaError
from lumina.state import archives as archives_module
from lumina.state import json_lines
from lumina.state.archives import archives
from lumina.state.json_lines import JsonLinesFile, iterate_json_lines
from lumina.state.metrics import MetricsLog, read_metrics
from mechanisms import mechanism
from stand_ins import stand_in
from states import unprivileged
from training import start_process


def no_token(name):
    raise AssertionError(f"{name} is not strict JSON")


def rows_of(path):
    lines = path.read_text().splitlines()
    return [json.loads(line, parse_constant=no_token) for line in lines]


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    yield log
    log.close()


@pytest.mark.covers("MON-12: JSONL/structured logs")
def test_rows_are_strict_json_and_on_disk_at_once(log):
    log.append(
        {
            "step": 1,
            "loss": math.nan,
            "grad_norm": math.inf,
            "learning_rate": 0.1 + 0.2,
            "moe.load": [0.5, -math.inf],
            "a": torch.tensor(2.5),
            "b": numpy.float32(0.5),
            "c": torch.tensor([1, 2]),
        }
    )
    assert rows_of(log.path) == [
        {
            "step": 1,
            "loss": None,
            "grad_norm": None,
            "learning_rate": 0.1 + 0.2,
            "moe.load": [0.5, None],
            "a": 2.5,
            "b": 0.5,
            "c": [1, 2],
        }
    ]


@pytest.mark.parametrize("row", [{}, {"step": 1.0}, {"step": None}, {"step": True}])
def test_a_row_without_its_step_is_refused(log, row):
    with pytest.raises(ValueError, match="step"):
        log.append(row)


def test_what_json_cannot_hold_is_refused_and_leaves_no_trace(log):
    with pytest.raises(TypeError):
        log.append({"step": 1, "loss": object()})
    assert log.path.read_bytes() == b""


def test_a_resume_cuts_off_later_rows_and_keeps_them_beside(log, tmp_path):
    for step in range(1, 7):
        log.append({"step": step})
    old = log.truncate_after(4)
    assert old == tmp_path / "metrics.discarded-1.jsonl"
    assert [row["step"] for row in rows_of(old)] == [5, 6]
    assert log.truncate_after(4) is None
    log.append({"step": 5, "again": True})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert log.truncate_after(0).name == "metrics.discarded-2.jsonl"
    assert read_metrics(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == [
        "metrics.discarded-1.jsonl",
        "metrics.discarded-2.jsonl",
        "metrics.jsonl",
    ]


@pytest.mark.parametrize(
    "torn", [b'{"step": 3, "lo', b"\0\0\0\0", b'{"step": 3', b"7\n"]
)
def test_a_torn_last_line_is_left_out_and_written_over(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n' + torn)
    if torn != b"7\n":  # a whole line that is no row is damage, not a tear
        assert [row["step"] for row in read_metrics(path)] == [1, 2]
    log = MetricsLog(path)
    log.append({"step": 3})
    log.close()
    assert [row["step"] for row in rows_of(path)] == [1, 2, 3]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\nnonsense\n{"step":3}\n')
    with pytest.raises(LuminaError, match=r"metrics\.jsonl, line 2") as caught:
        read_metrics(path)
    assert caught.value.code == "E101"


def test_no_metrics_is_e104(tmp_path):
    with pytest.raises(LuminaError, match="E104"):
        read_metrics(tmp_path / "none.jsonl")


def test_no_permission_is_e106(tmp_path):
    with unprivileged(tmp_path), pytest.raises(LuminaError, match="E106"):
        MetricsLog(tmp_path / "metrics.jsonl")


def write_within_1000_bytes(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    log = JsonLinesFile(path)
    try:
        for step in range(1000):
            log.append({"step": step, "text": "x" * 50})
    except LuminaError as error:
        os._exit(42 if error.code == "E204" else 1)


@mechanism(
    "quota met in a row",
    component="record",
    failure="metrics.jsonl may not grow further (RLIMIT_FSIZE)",
    recovery="refuse",
    expected="E204; the file ends in a whole row",
)
def test_a_full_disk_is_e204_and_leaves_whole_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    process = start_process(write_within_1000_bytes, path)
    process.join()
    assert process.exitcode == 42
    steps = [row["step"] for row in rows_of(path)]
    assert steps == list(range(len(steps))) and len(steps) > 5
    assert path.read_bytes().endswith(b"\n")


def append_for_ever(path):
    log = MetricsLog(path)
    step = len(read_metrics(path))
    while True:
        step += 1
        log.append({"step": step, "loss": 1 / step, "text": "x" * 200})


@mechanism(
    "killed while rows are written",
    component="record",
    failure="SIGKILL of a process that writes rows without pause",
    recovery="resume",
    expected="no row that was written is lost or torn",
)
@pytest.mark.faults
def test_kills_lose_no_row_that_was_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for kills in range(1, 4):
        process = start_process(append_for_ever, path)
        while not path.exists() or path.stat().st_size < kills * 20_000:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        steps = [row["step"] for row in read_metrics(path)]
        assert steps == list(range(1, len(steps) + 1))


class Killed(Exception):
    """The process ends here."""


def steps_in(path):
    return [row["step"] for row in read_metrics(path)]


def filled(path, count=20, limit=60):
    log = MetricsLog(path, rotate_bytes=limit)
    for step in range(1, count + 1):
        log.append({"step": step, "loss": 1.0 / step})
    return log


@pytest.mark.covers("MON-12: verbosity, rotation, archiving")
def test_rows_that_are_archived_are_read_with_the_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = filled(path)
    assert len(archives(path)) >= 3 and path.stat().st_size <= 60
    assert steps_in(path) == list(range(1, 21))
    log.amend_last({"step": 20, "loss": 0.5, "eval_loss": 2.0})
    assert read_metrics(path)[-1] == {"step": 20, "loss": 0.5, "eval_loss": 2.0}
    log.close()
    again = MetricsLog(path, rotate_bytes=60)
    again.append({"step": 21})
    again.close()
    assert steps_in(tmp_path) == list(range(1, 22))


@pytest.mark.parametrize("step", [0, 3, 19, 20])
def test_rows_past_a_step_are_taken_out_of_archives_too(tmp_path, step):
    path = tmp_path / "metrics.jsonl"
    log = filled(path)
    discarded = log.truncate_after(step)
    assert steps_in(path) == list(range(1, step + 1))
    assert (discarded is None) == (step == 20)
    if discarded is not None:
        assert steps_in(discarded) == list(range(step + 1, 21))
    log.append({"step": step + 1})
    log.amend_last({"step": step + 1, "loss": 3.0})
    log.close()
    assert steps_in(path) == list(range(1, step + 2))


@mechanism(
    "rotation cut off",
    component="record",
    failure="rows are archived, or an archive taken back, and the process ends between "
    "two files",
    recovery="resume",
    expected="every row once",
    real=False,
)
@pytest.mark.parametrize("at", ["archive", "begin_anew", "unlink"])
def test_no_row_is_lost_or_doubled_where_a_rotation_is_cut_off(
    tmp_path, monkeypatch, at
):
    path = tmp_path / "metrics.jsonl"
    log = filled(path, count=7)

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        if at == "archive":
            patch.setattr(archives_module, "os", stand_in(os, replace=die))
        elif at == "begin_anew":
            patch.setattr(JsonLinesFile, "begin_anew", die)
        else:
            patch.setattr(type(path), "unlink", die)
        with pytest.raises(Killed):
            if at == "unlink":
                log.truncate_after(5)
            for step in range(8, 30):
                log.append({"step": step, "loss": 1.0})
    there = steps_in(path)
    assert there == list(range(1, len(there) + 1))
    assert len(there) == 5 if at == "unlink" else len(there) >= 7
    again = MetricsLog(path, rotate_bytes=60)
    assert steps_in(path) == there
    for step in range(len(there) + 1, 20):
        again.append({"step": step, "loss": 1.0})
    again.close()
    assert steps_in(path) == list(range(1, 20))


@pytest.mark.parametrize("at", [0, 1, 10, 20])
def test_a_reader_misses_no_row_where_rows_are_archived_meanwhile(
    tmp_path, monkeypatch, at
):
    path = tmp_path / "metrics.jsonl"
    log = filled(path)

    def goes_on(*_):
        for step in range(21, 31):
            log.append({"step": step, "loss": 1.0 / step})

    if at == 0:  # when the reader has opened the file and lists the archives
        at_first(monkeypatch, json_lines, "archives", goes_on)
    reading = iterate_json_lines(path)
    found = [next(reading)["step"] for _ in range(at)]
    if at:
        goes_on()
    found += [row["step"] for row in reading]
    assert len(found) >= 20 and found == list(range(1, len(found) + 1))


def test_a_reader_goes_on_where_archived_rows_are_put_back_meanwhile(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = filled(path)
    reading = iterate_json_lines(path)
    found = [next(reading)["step"] for _ in range(4)]
    log.truncate_after(17)
    found += [row["step"] for row in reading]
    assert found == list(range(1, 18))


def test_who_opens_a_file_takes_no_row_for_torn_that_another_is_writing(
    tmp_path, monkeypatch
):
    """Neither appends nor cuts while another process has the file's lock."""
    path = tmp_path / "events.jsonl"
    one = JsonLinesFile(path)
    locked = []

    def look(*_):
        with open(path, "rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked.append(False)
            except BlockingIOError:
                locked.append(True)

    at_first(monkeypatch, JsonLinesFile, "_write", look)
    at_first(monkeypatch, JsonLinesFile, "_cut_torn_end", look)
    one.append({"step": 1})
    other = JsonLinesFile(path)
    assert locked == [True, True]
    other.append({"step": 2})
    one.append({"step": 3})
    assert [row["step"] for row in rows_of(path)] == [1, 2, 3]


def test_a_file_that_is_deleted_under_way_is_written_again(log):
    for step in (1, 2):
        log.append({"step": step})
    log.path.unlink()
    log.append({"step": 3})
    assert [row["step"] for row in rows_of(log.path)] == [1, 2, 3]
    # One that somebody put in its place stays, and is gone on with.
    log.path.unlink()
    log.path.write_text('{"step":9}\n')
    log.append({"step": 10})
    assert [row["step"] for row in rows_of(log.path)] == [9, 10]


def test_a_file_whose_folder_is_gone_is_e104(tmp_path):
    (tmp_path / "run").mkdir()
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    log.append({"step": 1})
    log.path.unlink()
    log.path.parent.rmdir()
    with pytest.raises(LuminaError, match="E104"):
        log.append({"step": 2})
    assert not log.path.parent.exists()
    log.close()
