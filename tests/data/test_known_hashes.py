"""A large file is read once for its hash, and again as soon as it changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from lumina.data import known_hashes
from lumina.data.known_hashes import WORTH_KEEPING, known_hash
from lumina.errors import LuminaError
from mechanisms import mechanism


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were read; with a cache of its own and no waiting."""
    found: list[Path] = []
    real = known_hashes.content_hash

    def counted(path: Path) -> str:
        found.append(path)
        return real(path)

    monkeypatch.setattr(known_hashes, "content_hash", counted)
    monkeypatch.setattr(known_hashes, "SETTLED_NS", -1)
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.txt"
    path.write_bytes(b"a" * WORTH_KEEPING)
    return path


def wait_for_a_tick(data: Path) -> None:
    """Until a change of `data` gets another time than its last one did.

    The clock of a file system ticks every few milliseconds.
    """
    probe = data.with_name("probe")
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns > data.stat().st_ctime_ns:
            return
        time.sleep(0.001)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_unchanged_file_is_read_once(reads: list[Path], data: Path) -> None:
    assert [known_hash(data) for _ in range(3)] == [digest(data)] * 3
    assert reads == [data]
    os.utime(data, (1, 1))  # looked at anew, and the same
    assert known_hash(data) == digest(data)
    assert len(reads) == 2


@pytest.mark.parametrize("how", ["in place", "replaced", "times put back"])
def test_a_change_of_the_same_size_is_noticed(
    reads: list[Path], data: Path, how: str
) -> None:
    first, before = known_hash(data), os.stat(data)
    wait_for_a_tick(data)
    if how == "replaced":
        other = data.with_name("other.txt")
        other.write_bytes(b"b" * WORTH_KEEPING)
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(other, data)
    else:
        with open(data, "r+b") as file:
            file.write(b"b")
    if how == "times put back":
        wait_for_a_tick(data)
        os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known_hash(data) == digest(data) != first


def test_a_file_that_just_changed_is_not_trusted(
    reads: list[Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_hashes, "SETTLED_NS", 10**12)
    known_hash(data), known_hash(data)
    assert len(reads) == 2


@mechanism(
    "index of the cache spoilt",
    component="cache",
    failure="the records of known hashes hold half a JSON object",
    recovery="make again",
    expected="the files are read again, and the hashes are right",
)
def test_small_files_lost_records_and_damage(
    reads: list[Path], data: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.txt"
    small.write_bytes(b"x")
    known_hash(small), known_hash(small)
    assert reads == [small, small]
    known_hash(data)
    for record in (tmp_path / "cache" / "hashes").iterdir():
        record.write_text("{")
    assert known_hash(data) == digest(data)
    assert reads.count(data) == 2
    data.unlink()
    with pytest.raises(LuminaError) as caught:
        known_hash(data)
    assert caught.value.code == "E104"


def test_a_second_preparation_reads_neither_sources_nor_tokens(
    reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumina.config import ConfigPresets
    from lumina.data.prepare import prepare

    monkeypatch.setattr(known_hashes, "WORTH_KEEPING", 1000)
    data = tmp_path / "story.txt"
    line = "The owl went to the hill and slept on day {}.\n"
    data.write_text("".join(line.format(n) for n in range(3000)))
    config = ConfigPresets.debug().replace(
        train_data=(str(data),), tokenizer_vocab_size=300
    )
    first = prepare(config)
    assert reads.count(data) == 1 and len(reads) > 1
    reads.clear()
    second = prepare(config)
    assert [path for path in reads if path.stat().st_size >= 1000] == []
    assert second.stats["cached"]
    assert second.train.fingerprint == first.train.fingerprint
    tokens = max(first.train.folder.iterdir(), key=lambda path: path.stat().st_size)
    damaged = bytearray(tokens.read_bytes())
    damaged[10] ^= 1
    tokens.write_bytes(damaged)
    assert not prepare(config).stats["cached"]
