"""One process of two ends, stops, or never comes back."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch

from fault_runs import FLAGS, assert_sound, at_step, die, exit_bare, saved, segfault
from lumina.assemble.ranks import meeting_place
from mechanisms import mechanism
from training import (
    assert_ranks_end,
    assert_same_run,
    column,
    final_tensors,
    reached,
    start,
    wait_until,
)

TWO = [*FLAGS, "--batch-size", "2"]


def started(trainings, name, *flags, of_rank=lambda rank: None, **environment):
    """Two ranks as torchrun starts them, each with something done to it before."""
    trainings.folder.mkdir(parents=True, exist_ok=True)
    store, place = meeting_place()
    trainings.stores.append(store)
    return [
        start(
            trainings.command(name, *TWO, *flags),
            trainings.folder / f"{name}.{rank}.log",
            before=of_rank(rank),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            **place,
            **environment,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def two(trainings):
    """The undisturbed run of two processes."""
    ranks = started(trainings, "two")
    assert_ranks_end(ranks)
    return trainings.folder / "two"


def die_together(folder, rank):
    """Only once the other rank is about to: else it could fail for want of this one."""
    (folder / f"{rank}.dies").touch()
    wait_until((folder / f"{1 - rank}.dies").exists)
    die()


ENDS = {
    "killed": die,
    "exits": partial(exit_bare, 5),
    "segfault": segfault,
}


@mechanism(
    "rank killed, without a launcher",
    component="rank",
    failure="SIGKILL of the second of two ranks in a step",
    recovery="resume",
    expected="the other one ends by itself; two go on as undisturbed",
    case="killed",
)
@mechanism(
    "rank exits",
    component="rank",
    failure="_exit in the second of two ranks in a step",
    recovery="resume",
    expected="the other one ends by itself; two go on as undisturbed",
    case="exits",
)
@mechanism(
    "rank crashes",
    component="rank",
    failure="a segmentation fault in the second of two ranks in a step",
    recovery="resume",
    expected="the other one ends by itself; two go on as undisturbed",
    case="segfault",
)
@pytest.mark.faults
@pytest.mark.parametrize("how", list(ENDS))
def test_a_rank_that_ends_alone(trainings, two, how):
    name = f"alone-{how}"
    act = partial(at_step, 5, ENDS[how])
    first, second = started(
        trainings, name, of_rank=lambda rank: act if rank == 1 else None
    )
    assert second.wait() != 0
    assert first.wait() != 0, "the other rank waits for one that is gone"
    assert "Traceback" not in first.output
    run = trainings.folder / name
    assert saved(run) == [2, 4]
    ranks = started(trainings, name, "--auto-resume")
    assert_ranks_end(ranks)
    assert_same_run(run, two)
    assert_sound(run)


@pytest.mark.faults
@mechanism(
    "rank killed, resumed on one",
    component="rank",
    failure="SIGKILL of both of two ranks in a step; only one process goes on",
    recovery="resume",
    expected="every row once; losses as undisturbed but for the order of sums",
)
def test_killed_on_two_and_resumed_on_one(trainings, two):
    plain = ["--dropout", "0"]  # dropout draws other numbers on other ranks
    whole = started(trainings, "plain", *plain)
    assert_ranks_end(whole)
    ranks = started(
        trainings, "fewer", *plain,
        of_rank=lambda rank: partial(
            at_step, 5, partial(die_together, trainings.folder, rank)
        ),
    )  # fmt: skip
    assert_ranks_end(ranks, -signal.SIGKILL)
    run = trainings.train("fewer", *FLAGS, *plain, "--auto-resume")
    assert_sound(run)
    wanted = trainings.folder / "plain"
    for metric in ("loss", "grad_norm"):
        torch.testing.assert_close(
            column(run, metric), column(wanted, metric), rtol=1e-4, atol=1e-5
        )
    expected = final_tensors(wanted)
    for key, tensor in final_tensors(run).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-2, atol=1e-4)


@pytest.mark.faults
@mechanism(
    "rank stopped and continued",
    component="rank",
    failure="SIGSTOP of one of two ranks, SIGCONT later",
    recovery="go on",
    expected="the other one waits for it; both end as undisturbed",
)
def test_a_rank_that_is_stopped_for_a_while(trainings, two):
    ranks = started(trainings, "stopped", HOLD_AFTER="4")
    run = trainings.folder / "stopped"
    assert wait_until(reached(run, 4), ranks[0])
    os.kill(ranks[1].process.pid, signal.SIGSTOP)
    for rank in ranks:
        rank.send(signal.SIGTERM)
    ranks[1].send(signal.SIGCONT)
    assert_ranks_end(ranks, 143)
    ranks = started(trainings, "stopped", "--auto-resume")
    assert_ranks_end(ranks)
    assert_same_run(run, two)
    assert_sound(run)
