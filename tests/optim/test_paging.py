"""Optimizer states in files and in host memory, page by page."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from lumina.errors import LuminaError
from lumina.optim.declared import chosen_optimizer
from lumina.optim.paging import sizes
from lumina.optim.paging.home import ALIGNMENT, chosen_home
from lumina.optim.paging.locked import locked
from lumina.optim.paging.optimizer import Paged
from optimizer_steps import MATRICES, SHAPES, gradients, optimizer, slots_of, take
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


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """No file may become larger, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


@pytest.mark.covers("MEM-11: NVMe offload of optimizer")
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


@pytest.mark.parametrize("early", [False, True])
def test_masters_of_narrow_weights_live_in_the_pages(
    small_pages, store, tmp_path, early
) -> None:
    stream = stream_of(store)
    narrow = {"compute_dtype": "bfloat16", "optimizer_in_backward": early}
    plain = assemble(tiny_plan(**narrow))
    paged = assemble(paged_plan(tmp_path, **narrow))
    held = paged.held
    assert held["optimizer"] == 0 and held["model"] < 0.7 * plain.held["model"]
    _, reached = take_steps(plain, stream, 3)
    _, progress = take_steps(paged, stream, 3)
    there = capture(paged, progress, everything=True)
    equal(capture(plain, reached, everything=True), there)
    kept = {name: value.clone() for name, value in there.tensors.items()}
    take_steps(plain, stream, 1, reached)
    take_steps(paged, stream, 1, progress)
    assert all(torch.equal(kept[n], t) for n, t in there.tensors.items())
    paged.optimizer.begin_anew()
    plain.optimizer.begin_anew()
    take_steps(plain, stream, 1, reached)
    take_steps(paged, stream, 1, progress)
    equal(
        capture(plain, reached, everything=True),
        capture(paged, progress, everything=True),
    )


def test_masters_stay_where_more_than_a_step_reads_them(store, tmp_path) -> None:
    narrow = {"compute_dtype": "bfloat16", "qk_clip": 0.0}
    plan = paged_plan(tmp_path, **narrow)
    assert plan.masters_beside
    for other in ({"ema_decay": 0.9}, {"qk_clip": 50.0}, {"swa_start": 0.5}):
        assert not plan.replace(**other).masters_beside
    averaged = plan.replace(ema_decay=0.9)
    plain = averaged.replace(optimizer_states_in="device")
    runs = [assemble(averaged), assemble(plain)]
    stream = stream_of(store)
    states = []
    for program in runs:
        _, progress = take_steps(program, stream, 2)
        states.append(capture(program, progress, everything=True))
    equal(*states)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "name", ["adamw", "adamw_8bit", "adafactor", "muon", "schedule_free", "sgd"]
)
def test_any_optimizer_takes_its_steps_page_by_page(
    small_pages, tmp_path: Path, place: str, name: str
) -> None:
    shapes = MATRICES if name in ("muon", "adamw_8bit") else tuple(SHAPES)
    plain = optimizer(name, slots_of(shapes))
    declared = chosen_optimizer(name)
    slots = slots_of(shapes)
    paged = Paged(
        declared, slots, plain.options, device=CPU, ranks=None, place=place,
        folder=tmp_path,
    )  # fmt: skip
    assert len(paged.pages) > 1
    for step in range(4):
        for made in (plain, paged):
            take(made, gradients(made.slots, step), decay=0.1, skip=float(step == 2))
    paged.settle()
    for one, other in zip(plain.slots, slots, strict=True):
        assert one.state.keys() == other.state.keys()
        assert torch.equal(one.master, other.master), one.name
        for key, value in one.state.items():
            assert torch.equal(value, other.state[key]), (one.name, key)
        if declared.evaluates:
            assert torch.equal(plain.evaluated(one), paged.evaluated(other))
    assert [float(n) for n in plain.scalars().values()] == [
        float(n) for n in paged.scalars().values()
    ]
    first = paged.anew()
    assert all(not n for n in first.scalars().values())
    first.close()


def test_a_step_waits_for_what_the_step_before_writes(small_pages, tmp_path) -> None:
    """With slow disks, and none of the states in memory."""
    slots, plain = slots_of(), optimizer("adamw", slots_of())
    paged = Paged(
        chosen_optimizer("adamw"), slots, plain.options, device=CPU, ranks=None,
        place="disk", folder=tmp_path,
    )  # fmt: skip
    for page in paged.pages:
        write, read = page.home.write, page.home.read
        page.home.write = lambda content, do=write: (time.sleep(0.004), do(content))
        page.home.read = lambda into, do=read: (do(into), time.sleep(0.002))[0]
    for step in range(3):
        for made in (plain, paged):
            take(made, gradients(made.slots, step))
    paged.settle()
    for one, other in zip(plain.slots, slots, strict=True):
        assert torch.equal(one.master, other.master)
        assert torch.equal(one.state["exp_avg"], other.state["exp_avg"])
    paged.close()


def test_no_room_on_disk_is_coded_before_the_first_step(tmp_path: Path) -> None:
    with limited_files(2 * ALIGNMENT), pytest.raises(LuminaError) as caught:
        chosen_home("disk")(4 * ALIGNMENT, tmp_path, pinned=False)
    assert caught.value.code == "E204" and "--offload-folder" in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(LuminaError) as caught:
        chosen_home("disk")(ALIGNMENT, tmp_path / "file", pinned=False)
    assert caught.value.code == "E104"


@pytest.mark.parametrize("place", PLACES)
def test_a_page_without_states_takes_no_room(tmp_path: Path, place: str) -> None:
    home = chosen_home(place)(0, tmp_path, pinned=False)
    empty = torch.empty(0, dtype=torch.uint8)
    home.write(home.target(empty))
    assert home.read(empty).numel() == home.rest.numel() == 0
    home.close()


def test_a_full_disk_costs_a_capture_memory_and_no_page(tmp_path: Path) -> None:
    home = chosen_home("disk")(4 * ALIGNMENT, tmp_path, pinned=False)
    home.rest.fill_(7)
    with limited_files(2 * ALIGNMENT):
        assert home.still() is None  # the capture copies
    kept = home.still()
    content = torch.full_like(home.rest, 8)
    home.write(content)
    assert kept.eq(7).all() and home.rest.eq(8).all()
    kept.fill_(9)  # an edit of what was captured
    assert home.read(torch.empty_like(content)).eq(8).all()
    home.close()


def test_a_failing_disk_ends_the_step_with_a_code(small_pages, tmp_path) -> None:
    plain = optimizer("adamw", slots_of())
    slots = slots_of()
    paged = Paged(
        chosen_optimizer("adamw"), slots, plain.options, device=CPU, ranks=None,
        place="disk", folder=tmp_path,
    )  # fmt: skip
    page = paged.pages[0]
    # The file has become shorter, as when someone else truncates it.
    os.ftruncate(page.home._file.fileno(), 0)
    with pytest.raises(LuminaError) as caught:
        take(paged, gradients(slots, 0))
    assert caught.value.code == "E303" and "checkpoint" in str(caught.value)
    paged.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "adamw_bf16"])
def test_pages_on_a_gpu(small_pages, store, tmp_path, place, early, optimizer) -> None:
    """A buffer is never overwritten under a copy: the figures of many steps agree."""
    stream = stream_of(store)
    common = {
        "device": "cuda",
        "compute_dtype": "bfloat16",
        "optimizer": optimizer,
        "optimizer_groups": ("role:norm=adamw",),
        "optimizer_in_backward": early,
        "steps": 60,
    }
    plain = assemble(tiny_plan(**common))
    paged = assemble(
        tiny_plan(**common, optimizer_states_in=place, offload_folder=str(tmp_path))
    )
    want, reached = take_steps(plain, stream, 40)
    got, progress = take_steps(paged, stream, 40)
    assert torch.equal(want[:, 0], got[:, 0])
    assert torch.allclose(want[:, 1], got[:, 1], rtol=1e-5)
    equal(
        capture(plain, reached, everything=True),
        capture(paged, progress, everything=True),
    )


def test_pinned_memory_that_cannot_be_had_is_coded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than there are addresses, and what CUDA does not lock."""
    with pytest.raises(LuminaError) as caught:
        locked(2**60)
    assert caught.value.code == "E202" and "1,048,576.0 TiB" in caught.value.message
    refusing = SimpleNamespace(cudaHostRegister=lambda *_: 2)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: refusing)
    with pytest.raises(LuminaError) as caught:
        locked(ALIGNMENT)
    assert caught.value.code == "E202" and "error 2" in caught.value.message
    assert "--weights-in" in caught.value.hint


def test_pinned_memory_goes_back_when_nothing_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, int]] = []
    runtime = SimpleNamespace(
        cudaHostRegister=lambda at, size, _: calls.append(("lock", at)) or 0,
        cudaHostUnregister=lambda at: calls.append(("unlock", at)) or 0,
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    made = locked(3 * ALIGNMENT)
    place = made.data_ptr()
    assert made.untyped_storage().nbytes() == 3 * ALIGNMENT and not made.any()
    view = made[ALIGNMENT:].fill_(7)
    del made
    assert calls == [("lock", place)] and view.sum() == 7 * 2 * ALIGNMENT
    del view
    assert calls == [("lock", place), ("unlock", place)]
