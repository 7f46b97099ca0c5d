"""Ranks are real processes that share nothing but the folder."""

from __future__ import annotations

import functools
import math
import os
import signal
import time

import pytest
import torch

from lumina.errors import LuminaError
from lumina.state import unwritten, writer
from lumina.state.checkpoint import CheckpointStore, open_checkpoint
from lumina.state.run_directory import RunDirectory
from mechanisms import mechanism
from states import Events, assert_state_is, make_state
from training import start_process

PATIENCE = 120.0
"""Seconds that ranks wait for one another; generous for busy cores."""


def share_of(state, rank, world_size):
    """The tensors one rank writes: each whole, in one rank's file."""

    def mine(tensors):
        return {
            name: tensor
            for index, (name, tensor) in enumerate(tensors.items())
            if index % world_size == rank
        }

    state.tensors = mine(state.tensors)
    state.optimizer = {slot: mine(held) for slot, held in state.optimizer.items()}
    state.info = {n: i for n, i in state.info.items() if n in state.tensors}
    return state


def run_rank(run, rank, world_size, steps, fault=None, timeout=PATIENCE):
    """Exit status 0: all saved; else the number of the error's code."""
    if fault is not None:
        fault(rank)
    store = CheckpointStore(run, 2, rank, world_size, rank_timeout=timeout)
    try:
        for step in steps:
            state = share_of(make_state(step), rank, world_size)
            store.save(state, "best" if step == 3 else "regular")
            if step == 4:
                store.save(state, "best")
        store.close()
    except LuminaError as error:
        os._exit(int(error.code[1:]) % 200)  # E204 -> 4, E303 -> 103
    os._exit(0)


def run_ranks(run, world_size, steps, **options):
    processes = [
        start_process(
            functools.partial(run_rank, run, rank, world_size, steps, **options)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.join(2 * PATIENCE)
    return [process.exitcode for process in processes]


def whole(reader):
    """The State, its names in the order of `make_state`."""
    state, wanted = reader.state(), make_state(reader.meta.step)
    state.tensors = {name: state.tensors[name] for name in wanted.tensors}
    state.info = {name: state.info[name] for name in wanted.info}
    state.optimizer = {
        slot: {name: state.optimizer[slot][name] for name in held}
        for slot, held in wanted.optimizer.items()
    }
    return state


@pytest.mark.thorough
@pytest.mark.parametrize("world_size", [2, 3])
def test_each_rank_writes_its_part_of_one_checkpoint(tmp_path, world_size):
    assert run_ranks(tmp_path, world_size, range(1, 6)) == [0] * world_size
    path = CheckpointStore(tmp_path).latest_good()
    assert path.name == "step-00000005"
    names = sorted(os.listdir(path))
    assert f"model-00001-of-0000{world_size}.safetensors" in names
    assert f"optimizer-0000{world_size}-of-0000{world_size}.safetensors" in names
    assert not [name for name in names if name.startswith("rank")]
    with open_checkpoint(path) as reader:
        assert_state_is(whole(reader), make_state(5))
    left = sorted(os.listdir(tmp_path / "checkpoints"))
    assert left == ["BEST", "LATEST", "step-00000004", "step-00000005"]
    assert (tmp_path / "checkpoints" / "BEST").read_text() == "step-00000004\n"


@pytest.mark.thorough
def test_another_number_of_ranks_goes_on(tmp_path):
    assert run_ranks(tmp_path, 2, [1]) == [0, 0]
    assert run_ranks(tmp_path, 1, [1, 2]) == [0]
    assert run_ranks(tmp_path, 3, [2, 3]) == [0, 0, 0]
    with open_checkpoint(CheckpointStore(tmp_path).latest_good()) as reader:
        assert_state_is(whole(reader), make_state(3))


def linger(run, rank):
    """Rank 1 is held up right after it has told rank 0 that its part is complete.

    As by a busy machine; it goes on when rank 0 has published.
    """
    if rank != 1:
        return
    replace, published = os.replace, run / "checkpoints" / "step-00000001"

    def replace_and_linger(source, target):
        replace(source, target)
        deadline = time.monotonic() + PATIENCE
        while not published.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    os.replace = replace_and_linger


@pytest.mark.thorough
def test_a_rank_that_is_held_up_behind_its_part_loses_nothing(tmp_path):
    codes = run_ranks(tmp_path, 2, [1], fault=functools.partial(linger, tmp_path))
    assert codes == [0, 0]
    with open_checkpoint(CheckpointStore(tmp_path).latest_good()) as reader:
        assert_state_is(whole(reader), make_state(1))


def die(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@mechanism(
    "killed rank in a save",
    component="rank",
    failure="SIGKILL of a rank before it has written its part of a checkpoint",
    recovery="older checkpoint",
    expected="the other rank gives up at its deadline; nothing is published",
)
@pytest.mark.faults
def test_a_killed_rank_is_noticed_and_nothing_is_published(tmp_path):
    assert run_ranks(tmp_path, 2, [1]) == [0, 0]
    codes = run_ranks(tmp_path, 2, [2], fault=die, timeout=1.0)
    assert codes == [103, -signal.SIGKILL]
    assert CheckpointStore(tmp_path).latest_good().name == "step-00000001"


def no_room(unlucky, rank):
    if rank == unlucky:
        unwritten.free_bytes = lambda _: 10


@mechanism(
    "disk of one rank full",
    component="rank",
    failure="the files of one rank may not grow (RLIMIT_FSIZE)",
    recovery="refuse",
    expected="all ranks learn of it at once (E204); nothing is published",
)
@pytest.mark.faults
@pytest.mark.parametrize("unlucky", [0, 1])
def test_one_full_disk_is_told_to_all_ranks_at_once(tmp_path, unlucky):
    assert run_ranks(tmp_path, 2, [1]) == [0, 0]

    # A rank that was not told would wait for its deadline and say E303, 103 here.
    full = functools.partial(no_room, unlucky)
    assert run_ranks(tmp_path, 2, [2], fault=full) == [4, 4]
    assert CheckpointStore(tmp_path).latest_good().name == "step-00000001"
    RunDirectory(tmp_path).acquire(resume=True).close()
    assert run_ranks(tmp_path, 2, [2]) == [0, 0]
    left = sorted(os.listdir(tmp_path / "checkpoints"))
    assert left == ["LATEST", "step-00000001", "step-00000002"]


def save_the_same_tensor(run, rank):
    store = CheckpointStore(run, 2, rank, 2, rank_timeout=PATIENCE)
    state = make_state(1)
    state.tensors = {"same": torch.ones(1)}
    store.save(state)
    try:
        store.close()
    except LuminaError as error:
        os._exit(42 if "two ranks wrote" in error.message else 1)
    os._exit(0)


def test_two_ranks_that_write_one_tensor_are_refused(tmp_path):
    processes = [
        start_process(save_the_same_tensor, tmp_path, rank) for rank in range(2)
    ]
    for process in processes:
        process.join(2 * PATIENCE)
    assert [process.exitcode for process in processes] == [42, 42]


def test_a_failed_attempt_leaves_nothing_once_a_later_one_is_published(
    tmp_path, monkeypatch
):
    stores = [
        CheckpointStore(tmp_path, 2, r, 2, rank_timeout=PATIENCE) for r in range(2)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_tensors", lambda *_: 1 / 0)
        for rank, store in enumerate(stores):
            store.save(share_of(make_state(1), rank, 2))
        for store in stores:
            with pytest.raises(LuminaError, match="E303"):
                store.wait()
    for rank, store in enumerate(stores):
        store.save(share_of(make_state(1), rank, 2))
    for store in stores:
        store.close()
    assert sorted(os.listdir(stores[0].folder)) == ["LATEST", "step-00000001"]


def test_giving_up_does_not_wait_for_the_others(tmp_path):
    events = Events()
    store = CheckpointStore(tmp_path, 2, 0, 2, events.emit, rank_timeout=math.inf)
    store.save(share_of(make_state(1), 0, 2))
    with pytest.raises(LuminaError, match="while rank 1 had yet to write its part"):
        store.close(wait=False)
    assert events.of("checkpoint_failed")
