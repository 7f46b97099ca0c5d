"""Optimizer states in files and in host memory, page by page."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from lumina.assemble.assemble import StateSource, assemble, capture
from lumina.errors import LuminaError
from lumina.optim.paging import sizes
from lumina.optim.paging.home import chosen_home
from lumina.optim.paging.homes import disk as disk_home
from lumina.optim.paging.optimizer import Paged
from optimizer_steps import MATRICES, SHAPES, gradients, optimizer, slots_of
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan

CPU = torch.device("cpu")
PLACES = ("disk", "host")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pages for tiny models, more than there are buffers."""
    monkeypatch.setattr(sizes, "PAGE_BYTES", 400)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory):
    return conversations(tmp_path_factory.getbasetemp())


def paged_plan(folder: Path, **changes):
    return tiny_plan(
        optimizer_states_in="disk", offload_folder=str(folder / "pages"), **changes
    )


def equal(one, other) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name
    assert one.optimizer.keys() == other.optimizer.keys()
    for slot, held in one.optimizer.items():
        assert held.keys() == other.optimizer[slot].keys()
        for name, value in held.items():
            assert torch.equal(value, other.optimizer[slot][name]), (slot, name)


@pytest.mark.covers("MEM-11: optimizer states on disk")
def test_a_run_with_pages_is_the_run_without_them(small_pages, store, tmp_path) -> None:
    stream = stream_of(store)
    plain, paged = assemble(tiny_plan()), assemble(paged_plan(tmp_path))
    member = next(iter(paged.optimizer.members.values())).optimizer
    assert isinstance(member, Paged) and len(member.pages) > 2 * sizes.WINDOW
    want, reached = take_steps(plain, stream, 3)
    got, progress = take_steps(paged, stream, 3)
    assert torch.equal(want, got)
    there = capture(paged, progress, everything=True)
    equal(capture(plain, reached, everything=True), there)
    # What was captured stays, whatever the next steps write into the files.
    kept = {n: t.clone() for n, t in there.optimizer["exp_avg"].items()}
    want, _ = take_steps(plain, stream, 2, reached)
    # A checkpoint of either goes on as the other.
    program = assemble(tiny_plan(), StateSource(there), meta=there)
    other, _ = take_steps(program, stream, 2, progress)
    assert torch.equal(want, other)
    progress.step, progress.cursor = 3, there.cursor
    got, progress = take_steps(paged, stream, 2, progress)
    assert torch.equal(want, got)
    equal_moments = {n: t for n, t in there.optimizer["exp_avg"].items()}
    assert all(torch.equal(kept[n], t) for n, t in equal_moments.items())
    program = reassembled(program, progress, paged_plan(tmp_path))
    equal(
        capture(program, progress, everything=True),
        capture(paged, progress, everything=True),
    )
    assert not list((tmp_path / "pages").iterdir())  # files have no names
