"""Where the seconds of a start go, and what is loaded on the side."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lumina import garbage, heartbeat, libraries_ahead, start_clock
from lumina.cli.train import _load, _takes_gpu_first
from lumina.config import Config
from lumina.train.told_start import ToldStart


class Clock:
    """A time that moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.now)

    def go(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(start_clock, "_clock", None)
    monkeypatch.setattr(start_clock, "_over", False)
    monkeypatch.setattr(start_clock, "process_began", lambda: 998.0)
    return Clock(monkeypatch)


def test_every_second_belongs_to_the_part_that_went_on(clock):
    start_clock.begin()
    clock.go(1)
    start_clock.part("torch")
    clock.go(3)
    heartbeat.beat("preparing")
    clock.go(0.5)
    heartbeat.beat("assembling")
    before = start_clock.part("compiler")
    clock.go(4)
    start_clock.part(before)
    clock.go(2)
    heartbeat.beat("saving")  # no part of a start
    clock.go(1)
    assert start_clock.finished() == {
        "Python and command line": 3.0,
        "torch": 3.0,
        "data and plan": 0.5,
        "model": 3.0,
        "compiler": 4.0,
    }


def test_a_start_is_told_once_and_a_process_starts_once(clock):
    assert start_clock.finished() is None
    assert start_clock.part("torch") == "torch"
    start_clock.begin()
    assert start_clock.finished() is not None
    start_clock.begin()
    assert start_clock.finished() is None


def test_the_event_tells_the_parts_with_the_first_row(clock):
    told = []
    trainer = SimpleNamespace(
        ranks=SimpleNamespace(main=True),
        tell=lambda kind, text, step, **data: told.append((kind, text, step, data)),
    )
    start_clock.begin()
    start_clock.part("first step")
    clock.go(2.25)
    for step in (1, 2):
        ToldStart().on_step(trainer, {"step": step})
    assert told == [
        (
            "started",
            "4.2 s to the first step: Python and command line 2.0, first step 2.2",
            1,
            {"seconds": {"Python and command line": 2.0, "first step": 2.25}},
        )
    ]


def test_the_age_of_a_process_is_read_from_the_system(monkeypatch):
    ticks = os.sysconf("SC_CLK_TCK")
    fields = ["0"] * 30
    fields[19] = str(50 * ticks)
    stat = f"7 (a) program) {' '.join(fields)}"
    monkeypatch.setattr(Path, "read_text", lambda self: stat)
    monkeypatch.setattr(time, "clock_gettime", lambda which: 62.0)
    monkeypatch.setattr(time, "time", lambda: 500.0)
    assert start_clock.process_began() == pytest.approx(488.0)
    monkeypatch.setattr(Path, "read_text", lambda self: "")
    assert start_clock.process_began() == 500.0


class Library:
    """A library that notes its calls."""

    def __init__(self, calls, failing=()):
        self.calls, self.failing = calls, failing

    def __getattr__(self, name):
        def call(*values):
            if name == "dlopen":
                values = (Path(values[0].decode()).name, values[1])
            if name == "cuDeviceGetCount":
                values[0]._obj.value = 2
            seen = [v for v in values if isinstance(v, str | int)]
            self.calls.append((name, *seen))
            return int(name in self.failing)

        return call


def test_libraries_are_loaded_as_torch_loads_them(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(calls))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name in ("libtorch_cpu.so", "libtorch_global_deps.so"):
        (tmp_path / name).touch()
    libraries_ahead._load(tmp_path, gpu=True)
    on_cpu = [("dlopen", "libtorch_global_deps.so", 0x102)]
    on_cpu += [("dlopen", "libtorch_cpu.so", 0x2)]
    assert calls == on_cpu
    calls.clear()
    (tmp_path / "libtorch_cuda.so").touch()
    libraries_ahead._load(tmp_path, gpu=False)
    assert calls == [*on_cpu, ("dlopen", "libtorch_cuda.so", 0x2)]
    libraries_ahead._load(tmp_path, gpu=True)
    assert calls[-1][0] == "cuDevicePrimaryCtxRetain"


def test_a_rank_makes_the_context_of_its_own_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(calls))
    assert libraries_ahead.make_context(3)
    assert calls[:3] == [("cuInit", 0), ("cuDeviceGetCount",), ("cuDeviceGet", 1)]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(calls, {"cuInit"}))
    assert not libraries_ahead.make_context(0)

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not libraries_ahead.make_context(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the loader of Linux")
def test_the_process_waits_for_the_thread_that_loads(monkeypatch):
    assert libraries_ahead.load_ahead(gpu=False) is None  # torch is there
    loaded = []
    monkeypatch.setattr(libraries_ahead, "_load", lambda *of: loaded.append(of))
    monkeypatch.delitem(sys.modules, "torch")
    thread = libraries_ahead.load_ahead(gpu=False)
    assert thread is not None and not thread.daemon
    thread.join()
    [(folder, gpu)] = loaded
    assert (folder / "libtorch_cpu.so").is_file() and gpu is False


def test_a_process_that_has_torch_measures_no_start_and_keeps_its_garbage(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    monkeypatch.setattr(start_clock, "_clock", None)
    _load(Config(device="cpu"), dry_run=False)
    assert start_clock.finished() is None and not frozen


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, True),
        ({"device": "cuda"}, True),
        ({"device": "cpu"}, False),
        ({"device": "cuda", "cuda_ids": (1,)}, False),
        ({"auto_batch_size": True}, False),
        ({"preflight": True}, False),
        ({"safe_optimizations": "prove"}, False),
    ],
)
def test_memory_of_a_gpu_is_left_to_those_who_measure_it(settings, first):
    """A context before them would take some of it."""
    assert _takes_gpu_first(Config(**settings)) is first


def test_searches_for_garbage_go_on_afterwards(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    with pytest.raises(ZeroDivisionError), garbage.no_search():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
    with garbage.modules_stay():
        assert not gc.isenabled()
    assert gc.isenabled() and frozen == [False]
    gc.disable()
    try:
        with garbage.no_search():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.thorough
def test_a_command_tells_where_its_start_went(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The hare ran and the tortoise walked on. " * 400)
    run = tmp_path / "run"
    words = (
        f"train --preset debug --no-use-moe --device cpu --train-data {text} --steps 2 "
        f"--hidden-size 32 --num-layers 1 --num-heads 2 --num-kv-heads 1 "
        f"--intermediate-size 64 --seq-length 32 --tokenizer-vocab-size 300 "
        f"--batch-size 2 --eval-fraction 0 --report-samples 0 --run-dir {run}"
    )
    environment = os.environ | {"LUMINA_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "lumina", *words.split()]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    [event] = [one for one in lines if one["kind"] == "started"]
    seconds = event["data"]["seconds"]
    assert {"torch", "Lumina", "model", "first step"} <= seconds.keys()
    assert all(spent >= 0 for spent in seconds.values())
    assert sum(seconds.values()) > 0
