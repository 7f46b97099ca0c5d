"""Runs whose optimizer states are in files: killed, without room, on several ranks."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import pytest

from mechanisms import mechanism
from training import (
    DENSE,
    Trainings,
    assert_same_run,
    checkpoints,
    column,
    final_tensors,
    reached,
    wait_until,
    words,
)

FLAGS = [
    *DENSE,
    *words("--precision fp32 --steps 6 --save-every-n-batches 2 --weight-decay 0.1"),
]


def no_large_files() -> None:
    """As on a disk that is nearly full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))


def open_files(process: int) -> list[str]:
    """What a process has open; files without a name are named by their folder."""
    found = []
    for one in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            found.append(str(one.readlink()))
    return found


def on_disk(folder: Path) -> list[str]:
    return ["--optimizer-states-in", "disk", "--offload-folder", str(folder)]


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> Path:
    """The run whose states stay in memory and that is never stopped."""
    return trainings.train("whole", *FLAGS)


@mechanism(
    "optimizer killed between its pages",
    component="process",
    failure="SIGKILL while optimizer states live in files of an offload folder",
    recovery="resume",
    expected="nothing stays in the folder; the run goes on as undisturbed",
)
@pytest.mark.thorough
@pytest.mark.covers("MEM-11: NVMe offload of optimizer")
def test_killed_while_it_pages_it_goes_on_as_the_run_without_pages(
    trainings: Trainings, whole: Path, tmp_path: Path
) -> None:
    flags = [*FLAGS, *on_disk(tmp_path / "pages"), "--auto-resume"]
    running = trainings.start("killed", *flags, HOLD_AFTER="3")
    folder = trainings.folder / "killed"
    assert wait_until(lambda: "step-00000002" in checkpoints(folder), running)
    assert wait_until(reached(folder, 3), running)
    open_now = open_files(running.process.pid)
    assert any(str(tmp_path / "pages") in name for name in open_now)
    running.kill()
    assert not list((tmp_path / "pages").iterdir())  # the system has removed them
    assert_same_run(trainings.train("killed", *flags), whole)


@mechanism(
    "offload folder on a full disk",
    component="disk",
    failure="no room for the files of optimizer states (RLIMIT_FSIZE)",
    recovery="resume",
    expected="E204 before the first step; with room it goes on as undisturbed",
)
@pytest.mark.thorough
def test_a_disk_without_room_is_coded_and_nothing_is_lost(
    trainings: Trainings, whole: Path, tmp_path: Path
) -> None:
    """A run without pages that cannot go on with them, and then does."""
    name = "full"
    more, folder = [*FLAGS, "--auto-resume"], trainings.folder / name
    running = trainings.start(name, *more, HOLD_AFTER="3")
    assert wait_until(lambda: "step-00000002" in checkpoints(folder), running)
    assert wait_until(reached(folder, 3), running)
    running.kill()
    kept = checkpoints(folder)
    pages = on_disk(tmp_path / "pages")
    running = trainings.start(name, *more, *pages, before=no_large_files)
    assert running.wait() == 1
    assert "E204" in running.output and "--offload-folder" in running.output
    assert checkpoints(folder) == kept
    assert_same_run(trainings.train(name, *more, *pages), whole)


@pytest.mark.thorough
def test_two_ranks_with_sharded_states_in_files(
    trainings: Trainings, whole: Path, tmp_path: Path
) -> None:
    found = trainings.train_on_ranks(
        "sharded",
        *FLAGS,
        *words("--batch-size 2 --parallel fsdp2"),
        *on_disk(tmp_path / "pages"),
    )
    expected = pytest.approx(column(whole, "loss"), rel=2e-4, abs=2e-4)
    assert column(found, "loss") == expected
    one, two = final_tensors(whole), final_tensors(found)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        gap = (two[key].double() - tensor.double()).norm()
        assert gap <= 2e-3 * tensor.double().norm() + 1e-6, key
