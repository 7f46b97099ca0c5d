"""Blocks and chunks: nothing is given twice, whoever is killed and whenever."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from interleaved import at_first
from lumina.cli.main import main
from lumina.data import blocks
from lumina.data.blocks import Chunk, ChunkTracker, write_blocks
from lumina.data.documents import read_documents
from lumina.errors import LuminaError
from mechanisms import mechanism
from training import start_process


def new_blocks(folder: Path, records: int = 95, of: int = 40) -> Path:
    data = folder / "data.jsonl"
    lines = [json.dumps({"text": f"Number {n}."}) for n in range(records)]
    data.write_text("\n".join(lines))
    assert write_blocks(read_documents([data]), folder / "blocks", of) == 3
    return folder / "blocks"


def numbers(records: list[dict[str, Any]]) -> list[int]:
    return [int(record["text"].strip("Number .")) for record in records]


@pytest.mark.covers("DAT-30", "DAT-31")
def test_an_epoch_is_every_record_once(tmp_path: Path) -> None:
    tracker = ChunkTracker(new_blocks(tmp_path), 15)
    found: list[int] = []
    while (chunk := tracker.claim("a", epochs=1)) is not None:
        assert tracker.claim("a", epochs=1) == chunk  # its own again, until it is done
        found += numbers(tracker.records(chunk))
        tracker.done("a", chunk, steps=2)
    assert found == list(range(95))
    state = tracker.state
    assert state["blocks_this_epoch"] == 3 and state["total_steps"] == 2 * 7
    assert state["completed"]["block"] == 2 and state["open"] == 0
    following = tracker.claim("b")
    assert following == Chunk(epoch=1, block=0, chunk=0, first=0, count=15)
    with pytest.raises(LuminaError, match="15 records, not 20"):
        ChunkTracker(tmp_path / "blocks", 20)


def test_two_programs_do_not_write_the_same_blocks_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another size would else put its records into blocks of this one."""
    refused: list[bool] = []

    def of_another(*_: object) -> None:
        with open(tmp_path / "blocks" / ".blocks.lock") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            refused.append(True)

    at_first(monkeypatch, blocks, "write_file", of_another)
    folder = new_blocks(tmp_path)
    assert refused == [True]
    data = read_documents([tmp_path / "data.jsonl"])
    with pytest.raises(LuminaError, match="blocks of 40 records, not 30"):
        write_blocks(data, folder, 30)


def _claim_all(case: tuple[Path, str]) -> None:
    folder, name = case
    tracker = ChunkTracker(folder / "blocks", 2)
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while (chunk := tracker.claim(name, epochs=2)) is not None:
        os.write(log, f"{chunk.epoch} {chunk.first + chunk.block * 40}\n".encode())
        tracker.done(name, chunk)


def kill_and_count(folder: Path, seconds: float, chance: random.Random) -> None:
    """Four processes claim; one after the other is killed and comes back."""
    new_blocks(folder)
    names = ("a", "b", "c", "d")
    running = {name: start_process(_claim_all, (folder, name)) for name in names}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        name = chance.choice(names)
        time.sleep(chance.uniform(0, 0.02))
        if running[name].is_alive():
            os.kill(running[name].pid, signal.SIGKILL)
        running[name].join()
        running[name] = start_process(_claim_all, (folder, name))
    for process in running.values():
        process.join()
        assert process.exitcode == 0
    owners: dict[str, set[str]] = {}
    for name in names:
        for line in (folder / f"{name}.log").read_text().splitlines():
            owners.setdefault(line, set()).add(name)
    wanted = {
        f"{epoch} {first + block * 40}"
        for epoch in (0, 1)
        for block, size in enumerate((40, 40, 15))
        for first in range(0, size, 2)
    }
    assert set(owners) == wanted
    assert Counter(map(len, owners.values())) == {1: len(wanted)}


@mechanism(
    "killed among several writers",
    component="data",
    failure="SIGKILL of processes that write blocks of data side by side",
    recovery="resume",
    expected="no record twice and none lost behind the last whole block",
)
@pytest.mark.faults
@pytest.mark.covers("DAT-30", "DAT-32: disjoint split over workers")
def test_killed_processes_never_share_a_chunk(tmp_path: Path) -> None:
    kill_and_count(tmp_path, 0.7, random.Random(1))


@pytest.mark.slow
@pytest.mark.faults
def test_processes_killed_many_times_never_share_a_chunk(tmp_path: Path) -> None:
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        kill_and_count(folder, 2.0, random.Random(seed))


def test_writing_goes_on_behind_the_last_whole_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = new_blocks(tmp_path)
    parts = [blocks / f"block-00000{n}" / "records.jsonl" for n in (1, 2)]
    before = [part.read_text() for part in parts]
    (blocks / "block-000001" / ".block.json").unlink()  # killed in the middle of it
    (blocks / "block-000001" / "records.jsonl").write_text("half")
    (blocks / "block-000002" / ".block.json").unlink()
    words = [str(tmp_path / "data.jsonl"), "--out", str(blocks), "--block-size", "40"]
    assert main(["data", "blocks", *words]) == 0
    after = [part.read_text() for part in parts]
    assert after == before and "3 blocks" in capsys.readouterr().out
    assert len(list(read_documents([blocks]))) == 95  # what is trained on
    words[-1] = "50"
    assert main(["data", "blocks", *words]) == 2
