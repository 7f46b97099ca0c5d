"""Runs whose weights are in files: killed, and resumed with and without the option."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechanisms import mechanism
from optim.test_paging_runs import FLAGS, open_files
from training import (
    Trainings,
    assert_same_run,
    checkpoints,
    reached,
    wait_until,
)


def beside(folder: Path) -> list[str]:
    places = ["--weights-in", "disk", "--optimizer-states-in", "disk"]
    return [*places, "--offload-folder", str(folder)]


@mechanism(
    "killed while weights are streamed",
    component="process",
    failure="SIGKILL while weights and optimizer states live in files of a folder",
    recovery="resume",
    expected="nothing stays in the folder; the run goes on as undisturbed, with the "
    "option and without it",
)
@pytest.mark.thorough
@pytest.mark.covers("MEM-11: offload of parameters, cpu_offload_parameters")
def test_killed_while_weights_are_streamed_it_goes_on_with_them_on_the_device(
    trainings: Trainings, tmp_path: Path
) -> None:
    whole = trainings.train("whole-weights", *FLAGS)
    flags, folder = [*FLAGS, "--auto-resume"], trainings.folder / "killed-weights"
    places = beside(tmp_path / "pages")
    running = trainings.start("killed-weights", *flags, *places, HOLD_AFTER="3")
    assert wait_until(lambda: "step-00000002" in checkpoints(folder), running)
    assert wait_until(reached(folder, 3), running)
    pages = [
        name
        for name in open_files(running.process.pid)
        if name.startswith(str(tmp_path / "pages"))
    ]
    assert len(pages) > 2  # a file for each block, and those of the states
    running.kill()
    assert not list((tmp_path / "pages").iterdir())
    running = trainings.start("killed-weights", *flags, HOLD_AFTER="5")
    assert wait_until(lambda: "step-00000004" in checkpoints(folder), running)
    assert wait_until(reached(folder, 5), running)
    running.kill()
    assert_same_run(trainings.train("killed-weights", *flags, *places), whole)
