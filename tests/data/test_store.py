"""The token store and the cache it lives in: damage, kills, full disks, two at once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lumina.data import cache
from lumina.data.cache import build_once, require_space
from lumina.data.packed_stream import BatchStream
from lumina.data.store import StoreWriter, TokenStore
from lumina.errors import LuminaError
from mechanisms import mechanism
from stand_ins import stand_in


def write(folder: Path, vocab_size: int = 1000, masked: bool = False) -> Path:
    writer = StoreWriter(folder, vocab_size, masked)
    for size in (3, 11, 1, 20):
        ids = np.arange(size) * (vocab_size - 1) // 20
        mask = ids % 3 == 1
        writer.add(ids, mask, text_bytes=size, loss_bytes=1, last=size != 1)
    writer.close()
    return folder


@pytest.mark.covers("DAT-41")
@pytest.mark.parametrize(("vocab_size", "width"), [(65536, 2), (65537, 4)])
def test_tokens_come_back(tmp_path: Path, vocab_size: int, width: int) -> None:
    store = TokenStore.open(write(tmp_path, vocab_size, masked=True))
    assert isinstance(store.tokens, np.memmap)
    assert store.tokens.itemsize == width
    assert len(store) == 3 and store.starts.tolist() == [0, 3, 14, 35]
    expected = np.arange(20) * (vocab_size - 1) // 20
    assert store.document(2).tolist() == [0, *expected]
    mask = store.bears_loss(np.arange(15, 35))
    assert mask.tolist() == (expected % 3 == 1).tolist()
    assert (store.bytes, store.loss_bytes) == (35, 4)
    assert store.vocab_size == vocab_size
    store.verify()


def test_bits_per_byte(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, 300, masked=False)
    mask = np.array([False, True, True])
    writer.add(np.arange(3), mask, text_bytes=4, loss_bytes=4, last=True)
    writer.close()
    # Two tokens of one bit each, over four bytes.
    assert TokenStore.open(tmp_path).bits_per_byte(np.log(2)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "name", ["tokens.bin", "documents.bin", "mask.bin", "store.json"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_damage_is_noticed(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path, masked=True) / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-1] if name != "store.json" else data[:-3])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"")
    with pytest.raises(LuminaError) as caught:
        TokenStore.open(tmp_path).verify()
    assert caught.value.code == "E101" and name in caught.value.message


@pytest.mark.covers("DAT-41")
def test_a_mapped_store_is_not_loaded_whole(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, 1000, masked=False)
    block = np.zeros(2**20, dtype=np.uint16)
    mask = np.ones(2**20, dtype=bool)
    for _ in range(96):
        writer.add(block, mask, text_bytes=1, loss_bytes=1, last=True)
    writer.close()
    assert (tmp_path / "tokens.bin").stat().st_size == 192 * 2**20

    def own_memory() -> int:
        """Without pages of files, which the system takes back when it needs them."""
        memory = psutil.Process().memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))

    before = own_memory()
    stream = BatchStream(
        TokenStore.open(tmp_path), seq_length=1024, global_batch_size=4, seed=0
    )
    cursor = stream.start
    for _ in range(20):
        step = stream.step(cursor, micro_batch_size=4)
        assert step is not None
        cursor = step.cursor
    assert own_memory() - before < 48 * 2**20


def number(folder: Path) -> int:
    try:
        return int((folder / "number").read_text())
    except (OSError, ValueError) as error:
        raise LuminaError("E101", f"{folder}: {error}") from None


def make(value: int) -> cache.Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "number").write_text(str(value))

    return build


def test_a_thing_is_built_once_and_rebuilt_when_damaged(tmp_path: Path) -> None:
    assert build_once(tmp_path, "k", make(1), number) == (1, False)
    assert build_once(tmp_path, "k", make(2), number) == (1, True)
    (tmp_path / "k" / "number").write_text("")
    told: list[LuminaError] = []
    assert build_once(tmp_path, "k", make(3), number, told.append) == (3, False)
    assert [error.code for error in told] == ["E101"]


@mechanism(
    "disk full in the cache",
    component="cache",
    failure="the system refuses a write (ENOSPC) while an entry is built",
    recovery="refuse",
    expected="E204 with the place to change; nothing half made stays",
    real=False,
)
def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "number").write_text("1")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LuminaError) as caught:
        build_once(tmp_path, "k", full, number)
    assert caught.value.code == "E204" and "LUMINA_CACHE" in caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["k.lock"]


def test_too_little_space_is_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100 * 2**20)
    monkeypatch.setattr(cache, "shutil", stand_in(shutil, disk_usage=lambda _: usage))
    require_space(tmp_path, 50 * 2**20, "it")
    with pytest.raises(LuminaError) as caught:
        require_space(tmp_path, 200 * 2**20, "it")
    assert caught.value.code == "E204"
    assert "200 MiB" in caught.value.message and "100 MiB" in caught.value.message


def test_what_killed_processes_left_is_removed_but_not_what_runs(
    tmp_path: Path,
) -> None:
    for owner in ("dead", "k", "alive"):
        (tmp_path / f".tmp-{owner}-999").mkdir(parents=True)
    began, leave = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        began.set()
        leave.wait(120)
        make(5)(folder)

    other = threading.Thread(target=build_once, args=(tmp_path, "alive", slow, number))
    other.start()
    assert began.wait(120)
    build_once(tmp_path, "k", make(1), number)
    left = {p.name for p in tmp_path.glob(".tmp-*")}
    assert left == {f".tmp-alive-{os.getpid()}"}  # its owner is at work on it
    leave.set()
    other.join()
    assert number(tmp_path / "alive") == 5


def test_a_cache_that_cannot_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LuminaError) as caught:
        build_once(tmp_path / "file" / "stores", "k", make(1), number)
    assert caught.value.code == "E104" and "LUMINA_CACHE" in caught.value.hint


@mechanism(
    "cache of another user",
    component="cache",
    failure="the cache may not be written by this user",
    recovery="refuse",
    expected="E106 with the variable to set",
)
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_cache_of_another_user(tmp_path: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(LuminaError) as caught:
            build_once(tmp_path / "stores", "k", make(1), number)
    finally:
        os.seteuid(0)
    assert caught.value.code == "E106" and "LUMINA_CACHE" in caught.value.hint


WORKER = """
import sys, time
from pathlib import Path
from lumina.data.cache import build_once

def build(folder):
    (folder / "number").write_text("7")
    print("building", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.001)

Path(sys.argv[1], sys.argv[3]).touch()

value, there = build_once(
    Path(sys.argv[1]), "k", build, lambda f: int((f / "number").read_text())
)
print(value, there, flush=True)
"""


def worker(folder: Path, until: str, name: str = "one") -> subprocess.Popen[str]:
    """A process that says that it has come, and builds until there is a file."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(folder / until), name],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_build_it_once(tmp_path: Path) -> None:
    """The one that builds goes on until the other has come to the cache."""
    both = [worker(tmp_path, "both", name) for name in ("one", "two")]
    while not all((tmp_path / name).exists() for name in ("one", "two")):
        time.sleep(0.001)
    (tmp_path / "both").touch()
    printed = sorted(process.communicate(timeout=280)[0] for process in both)
    assert printed == ["7 True\n", "building\n7 False\n"]


@mechanism(
    "killed while the cache is written",
    component="cache",
    failure="SIGKILL of a process that builds an entry of the cache",
    recovery="make again",
    expected="the entry is built again by the next",
)
@pytest.mark.faults
def test_a_kill_while_writing_leaves_nothing_usable(tmp_path: Path) -> None:
    process = worker(tmp_path, "never")
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.kill()
    process.wait()
    assert not (tmp_path / "k").exists()
    assert list(tmp_path.glob(".tmp-*"))
    assert build_once(tmp_path, "k", make(8), number) == (8, False)
    assert not list(tmp_path.glob(".tmp-*"))
