"""A process does not outlive the one that started it, however early that ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from import_path import finding
from lumina.child_processes import die_with_parent, reason_of_end
from lumina.observe.report import page
from training import start_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a service of Linux")

PROGRAM = """
import multiprocessing, os, sys, time
from lumina.child_processes import die_with_parent

def child(told, go, parent, named):
    os.write(told, str(os.getpid()).encode())
    if go is not None:
        os.read(go, 1)  # until the parent is ending
        while os.getppid() == parent:
            time.sleep(0.001)  # its files are closed before its children are told
    die_with_parent(parent if named else None)
    os.write(told, b" lives")
    time.sleep(600)

told = int(sys.argv[1])
early, by_name = (word == "True" for word in sys.argv[2:])
go, held = os.pipe() if early else (None, None)
me = os.getpid()
if by_name:
    if not os.fork():
        if early:
            os.close(held)
        child(told, go, me, True)
else:
    def started():
        if early:
            os.close(held)
        child(told, go, me, False)
    multiprocessing.get_context("fork").Process(target=started).start()
os.close(told)
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("by_name", [True, False], ids=["fork", "multiprocessing"])
@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
def test_a_child_ends_with_its_parent(early, by_name):
    """Also with one that was killed before the child could ask the system for it."""
    read, write = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(write), str(early), str(by_name)],
        stdout=subprocess.PIPE,
        pass_fds=[write],
    )
    os.close(write)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"started\n"
    said = os.read(read, 100)
    while not early and not said.endswith(b"lives"):
        said += os.read(read, 100)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while more := os.read(read, 100):  # to its end: nobody holds the pipe any more
        said += more
    assert said.endswith(b"lives") is not early
    parent.stdout.close()
    os.close(read)


def test_a_process_that_multiprocessing_did_not_start_must_name_its_parent():
    with pytest.raises(ValueError, match="name the parent"):
        die_with_parent()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "it printed nothing"),
        ("read\nwhy\n\n", "why"),
        (
            "Traceback (most recent call last):\n  File 'x', line 1\n"
            "torch.AcceleratorError: CUDA error: out of memory\n"
            "Search for `cudaErrorMemoryAllocation'\nCompile with TORCH_USE_CUDA_DSA\n",
            "torch.AcceleratorError: CUDA error: out of memory",
        ),
        ("ValueError: a\n\nDuring it\n\nKeyError: b\nadvice", "KeyError: b"),
        (
            "E201 (out of GPU memory): full\n  what to do: less",
            "E201 (out of GPU memory): full",
        ),
    ],
)
def test_the_reason_of_an_end_is_the_last_exception(output: str, reason: str) -> None:
    assert reason_of_end(output) == reason


def _done_ahead(path: str) -> None:
    cached = page._template.cache_info().currsize
    Path(path).write_text(f"{cached} {os.environ.get('PYTHONPATH')}")


def test_what_the_server_did_is_found_by_its_children(tmp_path: Path) -> None:
    """And they look for modules where this process does, not among the tests."""
    process = start_process(_done_ahead, str(tmp_path / "found"))
    process.join()
    found = (tmp_path / "found").read_text()
    assert found == f"1 {os.environ.get('PYTHONPATH')}"


def test_a_child_finds_some_folders_first_and_what_its_parent_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert finding(tmp_path, "src")["PYTHONPATH"].split(os.pathsep) == [
        str(tmp_path), "src", "elsewhere",
    ]  # fmt: skip
    monkeypatch.delenv("PYTHONPATH")
    assert finding(tmp_path)["PYTHONPATH"] == str(tmp_path)
    # Nothing else sets it: torch may be found through the parent's alone.
    here = Path(__file__).parent
    sets = re.compile(r"""["']?PYTHONPATH["']?\s*[:=](?!=)""")
    assert not [
        path.name
        for path in here.rglob("*.py")
        if path.name != "import_path.py" and sets.search(path.read_text())
    ]
