from __future__ import annotations

import json
import math
import threading
import time

import pytest

from lumina.state.events import EventLog, read_events


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    yield log
    log.close()


def test_an_event_says_what_when_and_how_bad(log, tmp_path):
    before = time.time()
    log.emit("step_skipped", "warning", "E302", "not finite", 7, loss=math.nan, n=[1])
    (event,) = read_events(tmp_path)
    # To the millisecond, as events are written.
    assert before - 0.001 <= event.pop("time") <= time.time() + 0.001
    assert event == {
        "version": 1,
        "step": 7,
        "kind": "step_skipped",
        "severity": "warning",
        "code": "E302",
        "message": "not finite",
        "data": {"loss": None, "n": [1]},
    }


def test_an_unknown_code_or_severity_is_refused(log):
    with pytest.raises(ValueError, match="E999"):
        log.emit("x", "error", "E999")
    with pytest.raises(ValueError, match="loud"):
        log.emit("x", "loud")
    assert log.path.read_bytes() == b""


def test_threads_do_not_mix_their_lines(log):
    def work(name):
        for n in range(100):
            log.emit("work", message="x" * 500, step=n, name=name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = log.path.read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 400


def test_a_later_process_adds_to_the_same_log(log, tmp_path):
    log.emit("first")
    again = EventLog(tmp_path / "events.jsonl")
    again.emit("second")
    again.close()
    assert [event["kind"] for event in read_events(tmp_path)] == ["first", "second"]
