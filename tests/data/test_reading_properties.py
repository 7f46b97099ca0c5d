"""Whatever the bytes are: nothing but coded errors, and counts that add up."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from lumina.data.documents import Document, Skipped, read_documents
from lumina.data.readers import json_values
from lumina.data.readers import text as text_reader
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

MEMBERS = {
    "a.txt": b"one\n<|endoftext|>two",
    "b/c.jsonl": b'{"text": "three"}\n\n{"text": ""}\nbad\n{"text": "four"}',
    "d.json": b'[{"text": "five"}, 6, {"text": "seven"}]',
    "e.csv": b'text,n\n"ei\nght",1\nnine\n',
    "README": b"about",
    "f.png": b"\x89PNG",
    "g": b"ten",
}
DOCUMENTS, BAD, LEFT_OUT = 8, 4, 2


@contextmanager
def file_of(name: str, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


class Read:
    def __init__(self, path: Path, **how: Any) -> None:
        self.skipped: list[Skipped] = []
        self.left_out: Counter[str] = Counter()
        self.documents: list[Document] = list(
            read_documents(
                [path],
                errors="skip",
                on_skip=self.skipped.append,
                on_left_out=lambda kind, name: self.left_out.update([kind]),
                **how,
            )
        )
        self.said = [(d.text, d.source.removeprefix(str(path))) for d in self.documents]


def archive(kind: str) -> bytes:
    made = io.BytesIO()
    if kind == ".zip":
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in MEMBERS.items():
                file.writestr(name, data)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return COMPRESS[kind.removeprefix(".tar")](made.getvalue())


def table(kind: str) -> bytes:
    made = io.BytesIO()
    rows = pyarrow.table({"text": [f"row {n}" for n in range(40)]})
    if kind == ".parquet":
        parquet.write_table(rows, made, row_group_size=10)
    else:
        with ipc.new_file(made, rows.schema) as file:
            file.write_table(rows, max_chunksize=10)
    return made.getvalue()


ARCHIVES = {
    kind: archive(kind)
    for kind in (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
}
FILES = {
    **ARCHIVES,
    ".jsonl.gz": gzip.compress(MEMBERS["b/c.jsonl"]),
    ".json": MEMBERS["d.json"],
    ".csv": MEMBERS["e.csv"],
    ".parquet": table(".parquet"),
    ".arrow": table(".arrow"),
}
KINDS = st.sampled_from(sorted(FILES))


@pytest.mark.parametrize("kind", ARCHIVES)
def test_what_is_read_skipped_and_left_out_is_all_there_is(kind: str) -> None:
    with file_of(f"a{kind}", ARCHIVES[kind]) as path:
        found = Read(path)
    assert len(found.documents) == DOCUMENTS
    assert len(found.skipped) == BAD
    assert found.left_out.total() == LEFT_OUT


SUFFIXES = st.sampled_from(
    [".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".zip", ".tar",
     ".tar.gz", ".jsonl.gz", ".txt.bz2", ".csv.xz", ".json.zst"]
)  # fmt: skip
TEXTS = st.text(st.sampled_from('{}[]",:\\ \n\ra1\0é<|endoftext|>'), max_size=60)


@settings(max_examples=150)
@given(
    suffix=SUFFIXES,
    data=st.binary(max_size=600) | TEXTS.map(str.encode),
    limit=st.sampled_from([16, 10**6]),
)
@example(".json", b"[", 16)
@example(".json", b"\xef\xbb\xbf", 16)
@example(".csv", b'"', 16)
@example(".tar", bytes(1024), 16)
def test_any_bytes_are_data_or_an_error_with_a_code(
    suffix: str, data: bytes, limit: int
) -> None:
    with file_of(f"a{suffix}", data) as path:
        found = Read(path, max_record_bytes=limit)
        assert found.documents or found.skipped or found.left_out
        try:
            whole = list(read_documents([path], max_record_bytes=limit))
        except LuminaError as error:
            assert found.skipped and error.code.startswith("E10")
        else:
            assert [d.text for d in whole] == [d.text for d in found.documents]
            assert not found.skipped


@settings(max_examples=150)
@given(kind=KINDS, cut=st.floats(0, 1), flip=st.integers(0, 255))
@example(".tar", 0.5, 0)
@example(".tar.zst", 0.99, 0)
def test_a_damaged_file_gives_a_beginning_and_a_reason(
    kind: str, cut: float, flip: int
) -> None:
    data = FILES[kind]
    at = min(int(cut * len(data)), len(data) - 1)
    if flip:
        changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
    else:
        changed = data[:at]
    with file_of(f"a{kind}", data) as path:
        whole = Read(path)
    with file_of(f"a{kind}", changed) as path:
        found = Read(path)
        try:
            list(read_documents([path]))
        except LuminaError as error:
            assert error.code.startswith("E10") and found.skipped
    assert len(found.said) <= len(whole.said) + 3
    same = (found.said, len(found.skipped)) == (whole.said, len(whole.skipped))
    if kind == ".tar" and not flip and same:
        assert not data[at:].strip(b"\0")  # only its end mark is shorter
    elif not flip and kind not in (".csv", ".json", ".jsonl.gz", ".zip"):
        # Of what is cut short the whole documents come; of a text, perhaps its start.
        known = [text for text, _ in whole.said]
        assert [text for text, _ in found.said] == known[: len(found.said)]
        assert len(found.skipped) > len(whole.skipped) or len(found.said) < len(known)
    if not flip and len(found.said) < len(whole.said) and kind != ".csv":
        assert found.skipped  # nothing is lost in silence


LINES = st.lists(
    st.sampled_from(
        ["word", "", " ", "é\n", "<|endoftext|>", "\r\n", "\n", "\n", "x" * 30, "\0"]
    ),
    max_size=25,
).map("".join)
RECORDS = st.lists(
    st.sampled_from([{"text": "a"}, {"text": ""}, {"text": "b\nc", "n": 1}, {}, 3]),
    max_size=12,
)


@settings(max_examples=60)
@given(lines=LINES, records=RECORDS, kind=st.sampled_from(["", ".zip", ".tar"]))
def test_reading_goes_on_exactly_at_every_place(
    lines: str, records: list[Any], kind: str
) -> None:
    rows = [r for r in records if isinstance(r, dict) and r]
    members = {
        "a.txt": lines.encode(),
        "b.jsonl": "\n".join(map(json.dumps, records)).encode(),
        "c.json": json.dumps(records).encode(),
        "d.csv": "".join(
            ["text,n\n", *(f'"{r["text"]}",{r.get("n", "")}\n' for r in rows)]
        ).encode(),
    }
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_reader, "PIECE_BYTES", 20)
        patch.setattr(json_values, "_BLOCK", 7)
        path = Path(folder)
        if not kind:
            for name, data in members.items():
                (path / name).write_bytes(data)
        elif kind == ".zip":
            with zipfile.ZipFile(path / "a.zip", "w") as file:
                for name, data in members.items():
                    file.writestr(name, data)
        else:
            with tarfile.open(path / "a.tar", "w") as tar:
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        whole = Read(path)
        places = [document.place for document in whole.documents]
        assert places == sorted(places) and len(set(places)) == len(places)
        for number, place in enumerate(places):
            rest = Read(path, begin=json_place(place))
            assert rest.documents == whole.documents[number:]
            before = len(whole.skipped) - len(rest.skipped)
            assert rest.skipped == whole.skipped[before:]


def json_place(place: Any) -> Any:
    """The place as it comes back from a checkpoint."""
    return type(place).of(json.loads(json.dumps(place)))
