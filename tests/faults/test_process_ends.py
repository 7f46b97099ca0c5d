"""The process ends in a step, in every way that a process can."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from fault_runs import at_step, die, exit_bare, saved, segfault
from mechanisms import mechanism
from training import rows

ENDS = {
    "sigkill": (die, -signal.SIGKILL),
    "segfault": (segfault, -signal.SIGSEGV),
    "abort": (os.abort, -signal.SIGABRT),
    "exit": (partial(exit_bare, 3), 3),
    "bus": (partial(die, signal.SIGBUS), -signal.SIGBUS),
}


@pytest.mark.faults
@mechanism(
    "bus error",
    component="process",
    failure="SIGBUS, as a mapped file that is cut gives it, between two checkpoints",
    recovery="resume",
    expected="resumed from the newest checkpoint; all figures as undisturbed",
    case="bus",
)
@mechanism(
    "bare exit",
    component="process",
    failure="a library calls _exit between two checkpoints",
    recovery="resume",
    expected="resumed from the newest checkpoint; all figures as undisturbed",
    case="exit",
)
@mechanism(
    "abort",
    component="process",
    failure="a library aborts (SIGABRT) between two checkpoints",
    recovery="resume",
    expected="resumed from the newest checkpoint; all figures as undisturbed",
    case="abort",
)
@mechanism(
    "segmentation fault",
    component="process",
    failure="native code reads address 0 between two checkpoints",
    recovery="resume",
    expected="resumed from the newest checkpoint; all figures as undisturbed",
    case="segfault",
)
@mechanism(
    "kill -9",
    component="process",
    failure="SIGKILL between two checkpoints",
    recovery="resume",
    expected="resumed from the newest checkpoint; all figures as undisturbed",
    case="sigkill",
)
@pytest.mark.parametrize("how", list(ENDS))
def test_a_process_that_ends_in_a_step_is_gone_on_with(faulty, how):
    act, code = ENDS[how]
    assert faulty.ended(before=partial(at_step, 5, act))[0] == code
    run = faulty.folder / "run"
    assert (len(rows(run)), saved(run)) == (5, [2, 4])
    faulty.assert_recovered()
    lost = (run / "metrics.discarded-1.jsonl").read_text().splitlines()
    assert len(lost) == 1  # row 5 alone: nothing beyond the last checkpoint
