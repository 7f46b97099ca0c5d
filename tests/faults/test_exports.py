"""Exports that are killed or have no room: a folder appears whole or not at all."""

from __future__ import annotations

import os
import resource
from functools import partial

import pytest

from fault_runs import die
from mechanisms import mechanism
from training import start


def die_in_an_export(stage: str) -> None:
    """In the process of an export: kill it in the weights, or before the last name."""
    from lumina.state.huggingface import export

    if stage == "weights":
        export.write_tensors = lambda *_: die()
    else:
        replace = os.replace

        def last(source, target):
            if str(source).endswith(".partial"):
                die()
            replace(source, target)

        os.replace = last


def small_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))


def exported(faulty, folder, before=None):
    faulty.folder.mkdir(parents=True, exist_ok=True)
    words = ["export", str(faulty.undisturbed), str(folder)]
    running = start(words, faulty.folder / f"{folder.name}.log", before=before)
    return running.wait(), running.output


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@mechanism(
    "killed while weights are exported",
    component="export",
    failure="SIGKILL while the weights of an export are written",
    recovery="make again",
    expected="no folder under the name; the next export is the undisturbed one",
    case="weights",
)
@mechanism(
    "killed before an export has its name",
    component="export",
    failure="SIGKILL with all files of an export written",
    recovery="make again",
    expected="no folder under the name; the next export is the undisturbed one",
    case="name",
)
@mechanism(
    "no room for an export",
    component="export",
    failure="files may not grow to the size of the weights (RLIMIT_FSIZE)",
    recovery="refuse",
    expected="E204; nothing is left of it",
    case="room",
)
@pytest.mark.faults
@pytest.mark.parametrize("stage", ["weights", "name", "room"])
def test_an_export_that_is_cut_off(faulty, stage):
    whole, cut = faulty.folder / "whole", faulty.folder / "cut"
    assert exported(faulty, whole)[0] == 0
    full = stage == "room"
    before = small_files if full else partial(die_in_an_export, stage)
    code, said = exported(faulty, cut, before)
    assert code == (1 if full else -9), said
    assert not cut.exists()
    if full:
        assert "E204" in said and "Traceback" not in said
        assert not list(faulty.folder.glob(".cut*"))
    assert exported(faulty, cut)[0] == 0
    assert content(cut) == content(whole)
    assert not list(faulty.folder.glob(".cut*"))
