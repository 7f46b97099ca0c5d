"""Compressed files and archives: read as streams, whole or not, kind or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumina import ConfigPresets
from lumina.data.documents import Skipped, read_documents
from lumina.data.prepare import prepare
from lumina.data.sources import guard, tar, zipped
from lumina.data.sources.entry import Limits
from lumina.data.sources.find import find_entries
from lumina.data.split import scan
from lumina.errors import LuminaError


def zstd(data: bytes) -> bytes:
    """A file as zstd makes it."""
    zstandard = pytest.importorskip("zstandard", reason="needs zstandard")
    compressed: bytes = zstandard.compress(data)
    return compressed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}

Files = dict[str, str | bytes]


def pack_tar(path: Path, files: Files, compression: str = "") -> Path:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(COMPRESS[compression](made.getvalue()))
    return path


def pack_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def both(folder: Path, files: Files) -> list[Path]:
    return [pack_zip(folder / "a.zip", files), pack_tar(folder / "b.tar", files)]


class Read:
    """What reading gave: texts by the name of their source, and what is left out."""

    def __init__(self, *paths: Path | str, errors: Any = "skip", **how: Any) -> None:
        self.skipped: list[Skipped] = []
        self.left_out: Counter[str] = Counter()
        self.documents = list(
            read_documents(
                paths,
                errors=errors,
                on_skip=self.skipped.append,
                on_left_out=lambda kind, name: self.left_out.update([kind]),
                **how,
            )
        )

    @property
    def texts(self) -> list[str]:
        return [document.text or "" for document in self.documents]


def refused(*paths: Path | str, **how: Any) -> LuminaError:
    with pytest.raises(LuminaError) as caught:
        list(read_documents(paths, **how))
    return caught.value


FILES: Files = {
    "a.txt": "one",
    "deep/er/naïve file ß.jsonl": '{"text": "two"}\n{"text": "three"}\n',
    "文書/本.md": "# four",
    "notes.rst": "five",
    "code/x.py": "six = 6\n",
    "no suffix": "seven",
    "nested.jsonl.gz": gzip.compress(b'{"text": "eight"}\n'),
}
NUMBERS = ["one", "two", "three", "# four", "five", "six = 6\n", "seven", "eight"]


@pytest.mark.covers("DAT-05: archives .tar, .tar.gz, .tar.bz2, .zip read directly")
@pytest.mark.parametrize(
    "name",
    ["a.zip", "a.tar", "a.tar.gz", "a.TGZ", "a.tar.bz2", "a.tar.xz", "a.tar.zst"],
)
def test_an_archive_gives_its_members_in_order(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"my books.{name}"
    if name.endswith("zip"):
        pack_zip(path, FILES)
    else:
        ending = name.lower().removeprefix("a.tar").replace("a.tgz", ".gz")
        pack_tar(path, FILES, ending)
    found = Read(path, errors="fatal")
    assert found.texts == NUMBERS and not found.left_out
    assert found.documents[1].source == f"{path}/deep/er/naïve file ß.jsonl"
    assert Read(tmp_path).texts == NUMBERS  # a folder is searched for archives


@pytest.mark.covers("MTX-30: load performance")
@pytest.mark.parametrize("pack", [pack_tar, pack_zip])
def test_an_archive_of_many_files_is_passed_over_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Any
) -> None:
    """What reading costs grows with its bytes, not with files times bytes."""
    opened: list[Counting] = []

    class Counting(io.FileIO):
        passed = 0

        def readinto(self, buffer: Any, /) -> int:
            count: int = super().readinto(buffer)
            self.passed += count
            return count

    def counting(path: Any, mode: str) -> io.BufferedReader:
        opened.append(Counting(path, mode.replace("b", "")))
        return io.BufferedReader(opened[-1], 4096)

    for module in (tar, zipped):
        monkeypatch.setattr(module, "open", counting, raising=False)
    path = tmp_path / ("a.tar" if pack is pack_tar else "a.zip")
    pack(path, {f"{n}.txt": f"{n} " + random.randbytes(99).hex() for n in range(2000)})
    texts = Read(path, errors="fatal").texts
    assert [int(text.split()[0]) for text in texts] == list(range(2000))
    (one,) = opened
    assert one.passed < 1.1 * path.stat().st_size


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix])
def test_a_compressed_file_is_read_as_what_is_in_it(
    tmp_path: Path, suffix: str
) -> None:
    lines = "".join(f'{{"text": "line {n}"}}\n' for n in range(5000)).encode()
    half = lines.index(b"\n", len(lines) // 2) + 1
    compress = COMPRESS[suffix]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(lines[:half]) + compress(lines[half:]))  # joined files
    assert Read(path, errors="fatal").texts == [f"line {n}" for n in range(5000)]


def test_a_window_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="needs zstandard")
    wide = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    made = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(made.compress(b"some text\n" * 20_000) + made.flush())
    error = refused(path)
    assert error.code == "E101" and "128 MiB" in error.message
    assert "--long" in error.hint


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix])
def test_a_compressed_file_that_is_cut_short(tmp_path: Path, suffix: str) -> None:
    lines = "".join(f'{{"text": "line {n * n}"}}\n' for n in range(5000)).encode()
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](lines)[:-40])
    error = refused(path)
    assert error.code == "E101" and "cut short" in error.message
    found = Read(path)
    assert [(s.source, s.code) for s in found.skipped][-1] == (str(path), "E101")
    assert found.texts == [f"line {n * n}" for n in range(len(found.texts))]


def test_what_is_no_data_is_counted(tmp_path: Path) -> None:
    files: Files = {
        "a.txt": "one",
        "README.md": "about",
        "LICENSE": "free",
        "cover.png": b"\x89PNG\0",
        "program": b"\x7fELF\0\0",
        ".hidden/b.txt": "hidden",
        "__MACOSX/c.txt": "hidden",
        "more.tar.gz": gzip.compress(b""),
        "more.zip": b"PK",
        "dataset_info.json": "{}",
    }
    expected = {
        "other files": 3,
        ".png": 1,
        "files without a suffix that are not text": 1,
        "hidden files in archives": 2,
        "archives in archives": 2,
    }
    for path in (
        pack_zip(tmp_path / "a.zip", files),
        pack_tar(tmp_path / "b.tar", files),
    ):
        found = Read(path, errors="fatal")
        assert found.texts == ["one"] and found.left_out == expected


def test_links_and_devices_of_a_tar_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.FIFOTYPE,
        ):
            info = tarfile.TarInfo(f"member {kind!r}.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("a.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"one"))
    found = Read(path, errors="fatal")
    assert found.texts == ["one"]
    assert found.left_out == {"links in archives": 2, "devices in archives": 2}


def test_a_link_of_a_zip_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("a.txt", "one")
    found = Read(path, errors="fatal")
    assert found.texts == ["one"] and found.left_out == {"links in archives": 1}


@pytest.mark.parametrize(
    "name", ["../a.txt", "/etc/a.txt", "x/../../a.txt", "C:/a.txt"]
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    for path in both(tmp_path, {name: "evil", "b.txt": "good"}):
        error = refused(path)
        assert error.code == "E101" and "leads out of the archive" in error.message
        found = Read(path)
        assert found.texts == ["good"] and len(found.skipped) == 1


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "a.zip", {"a.txt": "secret", "b.txt": "good"})
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    path.write_bytes(data)
    assert "this member is encrypted" in refused(path).message
    found = Read(path)
    assert found.texts == ["good"] and found.skipped[0].source == f"{path}/a.txt"


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.zip", "a.tar.bz2"])
def test_a_bomb_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    path, zeros = tmp_path / name, (b" " * 1023 + b"\n") * (18 * 2**10)
    if name == "a.zip":
        pack_zip(path, {"a.txt": zeros})
    elif name == "a.tar.bz2":
        pack_tar(path, {"a.txt": zeros}, ".bz2")
    else:
        path.write_bytes(COMPRESS["." + name.split(".")[-1]](zeros))
    del zeros
    tracemalloc.start()
    error = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code == "E101" and "250 times its size" in error.message
    assert "--max-unpacking-ratio" in error.hint
    assert peak < 40 * 2**20
    limits = Limits(unpacked_bytes=2**20)
    if name != "a.zip":
        assert "1,048,576 bytes" in refused(path, limits=limits).message


def test_limits_hold_for_members(tmp_path: Path, monkeypatch: Any) -> None:
    files: Files = {"a.txt": "x" * 5000, "b.txt": "good"}
    for path in (
        pack_zip(tmp_path / "a.zip", files),
        pack_tar(tmp_path / "b.tar", files),
    ):
        found = Read(path, limits=Limits(member_bytes=4999))
        assert found.texts == ["good"] and len(found.skipped) == 1
        assert len(Read(path, limits=Limits(member_bytes=5000)).texts) == 2
    path = tmp_path / "d.txt.gz"
    path.write_bytes(gzip.compress(b"x" * 5000))
    assert Read(path, limits=Limits(unpacked_bytes=5000)).texts == ["x" * 5000]
    assert not Read(path, limits=Limits(unpacked_bytes=4999)).texts
    monkeypatch.setattr(guard, "RATIO_FROM", 0)
    ratio = 5000 / path.stat().st_size
    assert Read(path, limits=Limits(ratio=1.01 * ratio)).texts
    assert not Read(path, limits=Limits(ratio=0.99 * ratio)).texts
    inner = pack_tar(tmp_path / "c.tar", {"a.txt.gz": gzip.compress(b"x" * 10**6)})
    assert "a.txt.gz unpacks to more than 250 times" in refused(inner).message


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".zst"])
def test_an_archive_that_is_cut_short_gives_what_is_whole(
    tmp_path: Path, compression: str
) -> None:
    noise = random.Random(0)
    files: Files = {
        f"{n}.txt": f"{n}:" + "".join(noise.choices("abcdefgh ", k=2000))
        for n in range(150)
    }
    path = pack_tar(tmp_path / f"a.tar{compression}", files, compression)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 700])  # within a member
    error = refused(path)
    assert error.code == "E101" and "cut short" in error.message
    found = Read(path)
    assert found.texts == list(files.values())[: len(found.texts)]
    assert 5 < len(found.texts) < 150 and len(found.skipped) == 1
    last = f"the last whole member is '{len(found.texts) - 1}.txt'"
    assert last in found.skipped[0].reason and last in error.message


def test_a_zip_without_its_end_is_refused_whole(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "a.zip", FILES)
    path.write_bytes(path.read_bytes()[:-30])
    assert "none of them can be read" in refused(path).message
    (tmp_path / "b.txt").write_text("good")
    found = Read(tmp_path)
    assert found.texts == ["good"] and [s.code for s in found.skipped] == ["E101"]


def test_a_damaged_member_of_a_zip_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.txt", "b.txt", "c.txt"):
            archive.writestr(name, f"this is {name}")
    path.write_bytes(path.read_bytes().replace(b"this is b.txt", b"this iz b.txt"))
    assert "b.txt" in refused(path).message
    found = Read(path)
    assert found.texts == ["this is a.txt", "this is c.txt"]
    assert [s.source for s in found.skipped] == [f"{path}/b.txt"]


def test_joined_tars_are_read_on_and_long_names_are_whole(tmp_path: Path) -> None:
    name = "folder/" * 60 + "ü" * 80 + ".txt"
    first = pack_tar(tmp_path / "a.tar", {name: "one"})
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"two"))
    joined = tmp_path / "c.tar"
    joined.write_bytes(first.read_bytes() + (tmp_path / "b.tar").read_bytes())
    found = Read(joined, errors="fatal")
    assert found.texts == ["one", "two"]
    assert {d.source for d in found.documents} == {f"{joined}/{name}"}


@pytest.mark.covers("DAT-05: large archives must not hang")
def test_many_small_members_begin_at_once(tmp_path: Path) -> None:
    """Nothing is listed before it is read: the end of the archive may be missing."""
    path = pack_tar(tmp_path / "a.tar", {f"{n}.txt": "x" * n for n in range(1, 9)})
    path.write_bytes(path.read_bytes()[:1200])
    entries = find_entries([path])
    assert next(entries).open().read() == b"x"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.txt.bz2"])
def test_every_place_can_be_begun_at(tmp_path: Path, name: str) -> None:
    (tmp_path / "0.jsonl").write_text(
        '{"text": "x"}\n\nbad\n{"text": "y"}\n{"text": "z"}'
    )
    text = "one\n<|endoftext|>two<|endoftext|>three\n\n" + "long line\n" * 7000
    about: Files = {"README": "about", "../out.txt": "refused"}
    files: Files = {**about, **FILES, "text.txt": text, "bad.txt": b"\xff\n"}
    if name == "a.zip":
        pack_zip(tmp_path / name, files)
    elif "tar" in name:
        pack_tar(tmp_path / name, files, name.removeprefix("a.tar"))
    else:
        (tmp_path / name).write_bytes(COMPRESS[name[5:]](text.encode()))
    whole = Read(tmp_path)
    assert len(whole.documents) > 6
    places = [document.place for document in whole.documents]
    assert places == sorted(set(places))
    for number, place in enumerate(places):
        rest = Read(tmp_path, begin=place)
        assert rest.documents == whole.documents[number:]
        # What comes before the place was reported when it was read.
        begun = place.entry > 0
        assert rest.left_out == (Counter() if begun else whole.left_out)
        before = [s for s in rest.skipped if "out.txt" in s.source]
        assert bool(before) == (not begun and "bz2" not in name)


def test_what_an_archive_leaves_out_is_told_each_time(tmp_path: Path) -> None:
    files: Files = {"a.txt": "one", "b.jsonl": '{"text": "two"}', "c.png": b"\x89"}
    path = pack_zip(tmp_path / "a.zip", files)
    config = ConfigPresets.debug().replace(train_data=[str(path)], eval_fraction=0.0)
    for cached in (False, True):
        told: list[dict[str, Any]] = []
        prepared = prepare(config, on_event=lambda told=told, **e: told.append(e))
        assert prepared.stats["cached"] is cached and len(prepared.train) == 2
        (event,) = (e for e in told if e["kind"] == "data_files_ignored")
        assert event["counts"] == prepared.stats["ignored_files"] == {".png": 1}


def test_progress_is_told_in_bytes_of_the_files(tmp_path: Path) -> None:
    noise = random.Random(0)
    files: Files = {
        f"{n}.txt": "".join(noise.choices("abcdefgh ", k=90_000)) for n in range(5)
    }
    paths = [
        pack_tar(tmp_path / "a.tar.gz", files, ".gz"),
        pack_zip(tmp_path / "b.zip", files),
    ]
    told: list[tuple[str, int, int]] = []
    scan(paths, errors="fatal", on_progress=lambda *now: told.append(now))
    total = sum(path.stat().st_size for path in paths)
    done = [now for _, now, _ in told]
    assert {(stage, of) for stage, _, of in told} == {("scan", total)}
    assert done == sorted(done) and done[-1] == total
    assert 0 < done[0] < total / 3 and len(set(done)) > 6
    assert done[-2] > total - paths[1].stat().st_size / 2
