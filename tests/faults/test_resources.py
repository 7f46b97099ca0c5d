"""The system stops a run, denies it something, or tells it another time."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from fault_runs import FLAGS, assert_sound, at_step, saved
from mechanisms import mechanism
from training import assert_same_run, events, reached, rows, wait_until


@pytest.mark.faults
@mechanism(
    "stopped and continued",
    component="process",
    failure="SIGSTOP in a step, SIGCONT later, as a suspended machine does",
    recovery="go on",
    expected="figures as undisturbed",
)
def test_stopped_and_continued(faulty):
    running = faulty.trainings.start("run", *FLAGS, HOLD_AFTER="4")
    run = faulty.folder / "run"
    assert wait_until(reached(run, 4), running)
    running.send(signal.SIGSTOP)
    stat = Path(f"/proc/{running.process.pid}/stat")
    assert wait_until(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T")
    running.send(signal.SIGTERM)  # waits until the process may go on
    running.send(signal.SIGCONT)
    assert running.wait() == 143, running.output
    assert saved(run)[-1] == 5
    faulty.assert_recovered()


def no_more_files() -> None:
    """Let the process open no file more than it has open now."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    with contextlib.suppress(OSError):  # those below that are free are taken
        while True:
            os.open("/dev/null", os.O_RDONLY)


@pytest.mark.faults
@mechanism(
    "out of file descriptors",
    component="process",
    failure="no further file may be opened (RLIMIT_NOFILE)",
    recovery="older checkpoint",
    expected="the save fails and ends the run; the checkpoint before is gone on from",
)
def test_out_of_file_descriptors(faulty):
    code, said = faulty.ended(before=partial(at_step, 5, no_more_files))
    assert code == 1 and "Too many open files" in said and "Traceback" not in said
    assert saved(faulty.folder / "run") == [2, 4]
    faulty.assert_recovered()


def no_more_memory() -> None:
    """Let the process have no more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
    import lumina.train.loop as loop

    step = loop.train_step

    def with_much(*arguments, **options):
        import torch

        torch.ones(2**28)  # 1 GiB, which the step needs now
        return step(*arguments, **options)

    loop.train_step = with_much


@pytest.mark.faults
@mechanism(
    "out of host memory",
    component="memory",
    failure="the system gives a step no more address space (RLIMIT_AS)",
    recovery="resume",
    expected="E202 or the words of the allocator, no hang; the run goes on from its "
    "checkpoint",
)
def test_out_of_host_memory(faulty):
    code, said = faulty.ended(before=partial(at_step, 5, no_more_memory))
    assert code and "memory" in said, said
    # The last whole step is saved where the allocator has a little left.
    assert saved(faulty.folder / "run") in ([2, 4], [2, 4, 5])
    faulty.assert_recovered()


def no_longer_rows(folder) -> None:
    """Let no file grow further than metrics.jsonl has grown."""
    size = (folder / "metrics.jsonl").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))


@pytest.mark.faults
@mechanism(
    "quota met by a row of a run",
    component="disk",
    failure="a run may not write half a row more (RLIMIT_FSIZE)",
    recovery="resume",
    expected="E204; no half row; with room again it goes on as undisturbed",
)
def test_no_room_for_a_row(faulty):
    run = faulty.folder / "run"
    before = partial(at_step, 5, partial(no_longer_rows, run))
    code, said = faulty.ended(before=before)
    assert code == 1 and "E204" in said and "metrics.jsonl" in said
    assert (run / "metrics.jsonl").read_bytes().endswith(b"\n")
    faulty.assert_recovered()


@pytest.mark.faults
@mechanism(
    "log file on a full disk",
    component="disk",
    failure="every write of --log-file fails (/dev/full)",
    recovery="go on",
    expected="said once; the run goes on without a log, as undisturbed",
)
def test_a_log_that_cannot_be_written(faulty):
    code, said = faulty.ended("--log-file", "/dev/full")
    assert code == 0 and said.count("gets no more lines") == 1, said
    assert_same_run(faulty.folder / "run", faulty.undisturbed)
    assert_sound(faulty.folder / "run")


def output_is_full() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.dup2(full, 2)


def output_is_a_closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)


@mechanism(
    "terminal on a full disk",
    component="disk",
    failure="what the program says cannot be written: its output is /dev/full",
    recovery="go on",
    expected="the run trains to its end, as undisturbed",
    case="output_is_full",
)
@mechanism(
    "reader of the output gone",
    component="process",
    failure="the program that reads the output through a pipe has ended",
    recovery="go on",
    expected="the run trains to its end, as undisturbed",
    case="output_is_a_closed_pipe",
)
@pytest.mark.faults
@pytest.mark.parametrize(
    "output", [output_is_full, output_is_a_closed_pipe], ids=lambda act: act.__name__
)
def test_output_that_goes_nowhere(faulty, output):
    faulty.ended(before=partial(at_step, 3, output))
    run = faulty.folder / "run"
    assert_same_run(run, faulty.undisturbed)
    assert_sound(run)


def clock_goes_back() -> None:
    now = time.time
    time.time = lambda: now() - 86_400


@pytest.mark.faults
@mechanism(
    "clock set back",
    component="clock",
    failure="the time of day jumps back by a day in the middle of a run",
    recovery="go on",
    expected="nothing waits or ends early; rows have times above zero; figures as "
    "undisturbed",
    real=False,
)
def test_a_clock_that_is_set_back(faulty):
    code, said = faulty.ended(before=partial(at_step, 5, clock_goes_back))
    assert code == 0, said
    run = faulty.folder / "run"
    assert_same_run(run, faulty.undisturbed)
    assert_sound(run)
    assert all(row["step_seconds"] > 0 for row in rows(run))


def data_thread_fails() -> None:
    from lumina.data.stream import RowStream

    def fails(*_, **__):
        raise OSError(5, "Input/output error")

    RowStream.made = fails


def save_thread_fails() -> None:
    from lumina.state import writer

    def fails(*_, **__):
        raise RuntimeError("the thread that saves fails")

    writer.write_tensors = fails


def evaluation_fails() -> None:
    from lumina.train.evaluations import Evaluations

    def fails(*_, **__):
        raise RuntimeError("the evaluation fails")

    Evaluations.judge = fails


@mechanism(
    "data thread fails",
    component="thread",
    failure="an input/output error in the thread that makes batches",
    recovery="resume",
    expected="the run ends with that error, does not wait for batches, and goes on "
    "from its checkpoint",
    real=False,
    case="data_thread_fails",
)
@mechanism(
    "save thread fails",
    component="thread",
    failure="an exception in the thread that writes checkpoints",
    recovery="older checkpoint",
    expected="an event and E303; the checkpoints before it stay, and it goes on",
    real=False,
    case="save_thread_fails",
)
@mechanism(
    "evaluation fails",
    component="process",
    failure="an exception in an evaluation",
    recovery="resume",
    expected="the run ends with that error, and goes on from its checkpoint",
    real=False,
    case="evaluation_fails",
)
@pytest.mark.faults
@pytest.mark.parametrize(
    "act",
    [data_thread_fails, save_thread_fails, evaluation_fails],
    ids=lambda act: act.__name__,
)
def test_an_exception_where_nothing_waits_for_it(faulty, act):
    # The data thread is two steps ahead.
    step = 2 if act is data_thread_fails else 5
    before = partial(at_step, step, act)
    code, said = faulty.ended("--prefetch-factor", "1", before=before)
    assert code == 1 and "Traceback" not in said, said
    run = faulty.folder / "run"
    assert events(run, "run_failed")
    if act is evaluation_fails:  # what was trained until then is kept
        assert saved(run)[-1] == len(rows(run))
    else:
        assert len(rows(run)) < 8 or saved(run) == [2, 4]
    faulty.assert_recovered()
