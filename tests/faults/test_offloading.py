"""What lives beside the device: its memory ends, its disk is full, it is killed."""

from __future__ import annotations

import errno
import os
import resource
from functools import partial
from pathlib import Path

import pytest

from fault_runs import Faulty, at_step, die, saved, unchanged
from mechanisms import mechanism
from training import words

STATES = words("--optimizer-states-in disk")
ACTIVATIONS = words("--activations-in disk --gradient-checkpointing full")


def no_memory_for_pages() -> None:
    """Let what is on its way to and from the pages find no more address space."""
    from lumina.optim.paging.transport import Transport

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
    make = Transport.buffers

    def large(transport: Transport, size: int, many: int) -> object:
        return make(transport, size + 2**30, many)  # which the page needs now

    Transport.buffers = large  # type: ignore[method-assign, assignment]


@pytest.mark.faults
@mechanism(
    "host memory exhausted while offloading",
    component="memory",
    failure="what carries a page or an activation gets no more memory (RLIMIT_AS)",
    recovery="resume",
    expected="E202; weights that are half changed are not saved; with memory again it "
    "goes on as undisturbed",
)
@pytest.mark.parametrize(
    ("flags", "newest"), [(STATES, 4), (ACTIVATIONS, 5)], ids=["states", "activations"]
)
def test_no_host_memory_while_offloading(
    faulty: Faulty, flags: list[str], newest: int
) -> None:
    code, said = faulty.ended(*flags, before=partial(at_step, 5, no_memory_for_pages))
    assert code == 1 and "E202" in said and "Traceback" not in said, said
    assert saved(faulty.folder / "run")[-1] <= newest
    faulty.assert_recovered(*flags, "--no-memory-recovery")


def full_disk() -> None:
    """Let no file be given blocks ahead of its bytes."""

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.posix_fallocate = no_room


@pytest.mark.faults
@mechanism(
    "disk of the offload full",
    component="disk",
    failure="no file of the offload folder gets its blocks",
    recovery="resume",
    expected="E204 before a step is done; nothing of the run changes, and with room "
    "again it goes on as undisturbed",
    real=False,
)
@pytest.mark.parametrize("flags", [STATES, ACTIVATIONS], ids=["states", "activations"])
def test_the_disk_of_the_offload_is_full(faulty: Faulty, flags: list[str]) -> None:
    run = faulty.copy()
    before = {k: v for k, v in unchanged(run).items() if k.startswith("checkpoints")}
    code, said = faulty.ended("--auto-resume", *flags, before=full_disk)
    assert code == 1 and "E204" in said and "--offload-folder" in said, said
    assert "Traceback" not in said
    after = {k: v for k, v in unchanged(run).items() if k.startswith("checkpoints")}
    assert after == before
    faulty.assert_recovered(*flags)


@pytest.mark.faults
@mechanism(
    "disk of the offload fills up beside a run",
    component="disk",
    failure="from step 4 on no further file of the offload folder gets its blocks",
    recovery="go on",
    expected="pages have their blocks from the start, and checkpoints are copied in "
    "memory: as undisturbed",
    real=False,
)
def test_the_disk_fills_up_beside_a_run(faulty: Faulty) -> None:
    code, said = faulty.ended(*STATES, before=partial(at_step, 3, full_disk))
    assert code == 0, said
    faulty.assert_recovered(*STATES)


def killed_in_a_page(number: int) -> None:
    """SIGKILL when so many pages or activations are written, and half of the last."""
    from lumina.optim.paging.homes.disk import Disk

    write, written = Disk.write, [0]

    def half(home: Disk, content: object) -> None:
        written[0] += 1
        if written[0] == number:
            os.pwrite(home._file.fileno(), b"\xff" * (home.size // 2), 0)
            die()
        write(home, content)  # type: ignore[arg-type]

    Disk.write = half  # type: ignore[method-assign, assignment]


@pytest.mark.faults
@mechanism(
    "killed while paging",
    component="process",
    failure="SIGKILL while half of a page, or of an activation, is written",
    recovery="resume",
    expected="no file is left in the offload folder; it goes on as undisturbed",
)
@pytest.mark.parametrize("flags", [STATES, ACTIVATIONS], ids=["states", "activations"])
def test_killed_while_paging(faulty: Faulty, flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "offload"
    flags = [*flags, "--offload-folder", str(folder)]
    code, _ = faulty.ended(*flags, before=partial(killed_in_a_page, 5))
    assert code == -9
    assert folder.is_dir() and not list(folder.iterdir())
    faulty.assert_recovered(*flags)
