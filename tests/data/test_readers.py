"""Formats of files: what their bytes hold, and what is done where they hold nothing."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, ipc, parquet

from lumina import ConfigPresets
from lumina.data import libraries
from lumina.data.documents import ReadOptions, Skipped, read_documents
from lumina.data.readers import columnar, json_values
from lumina.data.readers.json_values import JsonValues
from lumina.data.records import BadRecord
from lumina.data.text_files import TextFiles
from lumina.errors import LuminaError
from stand_ins import stand_in

RECORDS = [{"text": f"text {n}\nof 'ä\"\\', {{[" * (n % 3 + 1)} for n in range(700)]
TEXTS = [record["text"] for record in RECORDS]


def texts(path: Path, skipped: list[Skipped] | None = None, **how: Any) -> list[str]:
    if skipped is not None:
        how |= {"errors": "skip", "on_skip": skipped.append}
    return [document.text or "" for document in read_documents([path], **how)]


def refused(path: Path, **how: Any) -> LuminaError:
    with pytest.raises(LuminaError) as caught:
        texts(path, **how)
    return caught.value


def write_table(path: Path, records: list[dict[str, Any]], rows: int = 100) -> Path:
    table = pyarrow.Table.from_pylist(records)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=rows)
    elif path.suffix == ".feather":
        feather.write_feather(table, path, chunksize=rows)
    else:
        new = ipc.new_stream if path.stem == "stream" else ipc.new_file
        with new(path, table.schema) as file:
            file.write_table(table, max_chunksize=rows)
    return path


def write_csv(path: Path, records: list[dict[str, str]], delimiter: str = ",") -> Path:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
    return path


def write_any(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(records, indent=path.stem == "indented" or None))
    elif path.suffix in (".csv", ".tsv"):
        write_csv(path, records, "," if path.suffix == ".csv" else "\t")
    else:
        write_table(path, records)
    return path


NAMES = [
    "a.json", "indented.json", "a.csv", "a.tsv", "a.parquet", "a.arrow",
    "stream.arrow", "a.feather",
]  # fmt: skip


@pytest.mark.covers("DAT-04: CSV", "DAT-04: JSON", "DAT-06")
@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_its_records_from_any_place(
    tmp_path: Path, name: str
) -> None:
    path = write_any(tmp_path / name, RECORDS)
    whole = list(read_documents([tmp_path]))
    assert [document.text for document in whole] == TEXTS
    for at in (0, 1, 99, 100, 399, 698, 699):
        assert list(read_documents([path], begin=whole[at].place)) == whole[at:]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(path, f"deep/{name}")
    assert texts(tmp_path / "b.zip") == TEXTS
    packed = tmp_path / f"c{path.suffix}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert texts(packed) == TEXTS


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_record_is_named_and_left_out(tmp_path: Path, name: str) -> None:
    records = [{"text": "one"}, {"text": " "}, {"text": "x" * 5000}, {"text": "two"}]
    path = write_any(tmp_path / name, records)
    error = refused(path)
    assert error.code == "E105" and " 2: " in error.message.replace("line 3", "row 2")
    skipped: list[Skipped] = []
    assert texts(path, skipped, max_record_bytes=2000) == ["one", "two"]
    assert [s.code for s in skipped] == ["E105", "E101"]
    assert "2,000" in skipped[1].reason


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    path = write_any(tmp_path / name, RECORDS)
    path.write_bytes(path.read_bytes()[:-9])
    skipped: list[Skipped] = []
    if path.suffix in (".csv", ".tsv"):
        assert len(texts(path, skipped)) == 699
    else:
        assert refused(path).code == "E101"
        found = texts(path, skipped)
        assert found == TEXTS[: len(found)]
    assert [s.code for s in skipped] == ["E101"] or path.name == "stream.arrow"


def test_an_object_holds_the_records_in_its_one_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "tags": ["x"], "data": RECORDS[:3]}))
    assert texts(path) == TEXTS[:3]
    path.write_text(json.dumps({"train": RECORDS[:3], "test": RECORDS[3:5]}))
    error = refused(path)
    assert error.code == "E101" and "(train, test)" in error.message
    assert "--json-field" in error.hint
    assert texts(path, options=ReadOptions(json_field="test")) == TEXTS[3:5]
    # The same where the object is too large to be held in memory.
    path.write_text(json.dumps({"train": RECORDS[:60], "test": RECORDS[60:65]}))
    assert "(train, test)" in refused(path, max_record_bytes=1024).message
    found = texts(path, options=ReadOptions(1024, json_field="test"))
    assert found == TEXTS[60:65]
    path.write_text(json.dumps({"a": 1}))
    assert refused(path).code == "E102"
    message = refused(path, options=ReadOptions(json_field="test")).message
    assert "no field 'test' with an array" in message


def test_one_record_and_records_in_a_row_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path.write_text(json.dumps({"messages": turns}, indent=1))
    (document,) = read_documents([path])
    assert document.messages is not None and len(document.messages) == 2
    path.write_text("\n".join(json.dumps(record) for record in RECORDS))
    assert texts(path) == TEXTS
    skipped: list[Skipped] = []
    lines = [json.dumps({"text": text}) for text in ("x" * 3000, "one", "x" * 3000)]
    path.write_text("\n".join([*lines, '{"text": "two"}']))
    assert texts(path, skipped, max_record_bytes=1024) == ["one", "two"]
    assert [s.line for s in skipped] == [1, 3]
    path.write_text("3")
    assert refused(path).code == "E101"


def test_an_array_of_any_size_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record = json.dumps({"text": "x" * 10_000})
    path.write_text('{"name": "all", "data": [' + ",".join([record] * 2000) + "]}")
    for limit in (15_000, 9_000):
        skipped: list[Skipped] = []
        tracemalloc.start()
        count = 0
        for _ in read_documents(
            [path], errors="skip", on_skip=skipped.append, max_record_bytes=limit
        ):
            count += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (count, len(skipped)) in ((2000, 0), (0, 2000)) and peak < 2**21


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(items=st.lists(JSON, max_size=5), block=st.integers(1, 40), indent=st.booleans())
def test_any_array_is_read_in_pieces_of_any_size(
    items: list[Any], block: int, indent: bool
) -> None:
    data = json.dumps(items, ensure_ascii=block % 2 == 0, indent=indent or None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_BLOCK", block)
        try:
            handle = io.BytesIO(data.encode())
        except UnicodeEncodeError:
            return
        assert list(JsonValues(handle, 10**6).array()) == items
        # Items over the limit are passed over, and the others are read.
        handle = io.BytesIO(data.encode())
        for item, found in zip(items, JsonValues(handle, 12).array(), strict=True):
            assert found == item or isinstance(found, BadRecord)


@pytest.mark.parametrize(
    ("bad", "code"),
    [("{'text': 1}", "E101"), ('{"text": "a" "b"}', "E101"), ("[1 2]", "E101"),
     ('{"text": "\udcff"}', "E103"), ('{"text": "a", "text": "b"}', "E102")],
)  # fmt: skip
def test_a_damaged_item_leaves_the_rest_of_the_array(
    tmp_path: Path, bad: str, code: str
) -> None:
    path = tmp_path / "a.json"
    whole = f'[{{"text": "one"}}, {bad}, {{"text": "two"}}]'
    path.write_bytes(whole.encode(errors="surrogateescape"))
    assert refused(path).code == code
    skipped: list[Skipped] = []
    assert texts(path, skipped) == ["one", "two"]
    assert [(s.line, s.code) for s in skipped] == [(2, code)]


def test_columns_of_a_table_without_names_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"one\nline",1\ntwo,2\n')
    options = ReadOptions(csv_columns=("text", "label"))
    unread: list[str] = []
    assert texts(path, options=options, on_unread=unread.extend) == ["one\nline", "two"]
    assert unread == ["label", "label"]
    path.write_text("text,text\na,b\n")
    assert "two columns have the name 'text'" in refused(path).message


def test_bad_rows_of_a_table_leave_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,n\none,1\ntwo\n"x"y,2\ncaf\xe9,3\n\n"a ""b""\nc",4\n')
    skipped: list[Skipped] = []
    assert texts(path, skipped) == ["one", 'a "b"\nc']
    assert [(s.line, s.code) for s in skipped] == [
        (3, "E102"), (4, "E101"), (5, "E103"),
    ]  # fmt: skip
    path.write_text('text\n"never closed\n' + "x\n" * 2000)
    assert "may not be closed" in refused(path, max_record_bytes=1024).message


def test_what_a_name_does_not_say_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(b'{"text": "a"}'))
    assert "compressed by gzip" in refused(path).message
    write_table(tmp_path / "b.parquet", RECORDS).rename(tmp_path / "b.json")
    assert "a Parquet file" in refused(tmp_path / "b.json").message


def test_options_of_formats_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    for option in ({"csv_columns": ("text",)}, {"json_field": "data"}):
        config = ConfigPresets.debug().replace(train_data=[str(tmp_path)], **option)
        with pytest.raises(LuminaError, match=next(iter(option))) as caught:
            TextFiles(config)
        assert caught.value.code == "E002"


def test_options_are_part_of_what_the_data_is(tmp_path: Path) -> None:
    """Otherwise a store that was made with other options would be opened."""
    (tmp_path / "a.csv").write_text("text,more\na,b\n")
    (tmp_path / "a.json").write_text('{"x": [{"text": "a"}], "y": [{"text": "b"}]}')
    base = ConfigPresets.debug().replace(train_data=[str(tmp_path)])
    found = [
        TextFiles(base.replace(**option)).sources
        for option in (
            {}, {"csv_columns": ("text", "b")}, {"csv_columns": ("a", "text")},
            {"json_field": "x"}, {"json_field": "y"},
        )
    ]  # fmt: skip
    assert len({json.dumps(sources) for sources in found}) == 5


@pytest.mark.parametrize(
    ("name", "library"),
    [("a.parquet", "pyarrow"), ("a.feather", "pyarrow"), ("a.txt.zst", "zstandard")],
)
def test_a_library_that_is_missing_is_named(
    tmp_path: Path, name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    (tmp_path / name).write_bytes(b"PAR1")
    monkeypatch.setattr(
        libraries, "importlib", stand_in(importlib, import_module=missing)
    )
    error = refused(tmp_path / name)
    assert error.code == "E003" and library in error.message
    assert "luminaai[data]" in error.hint
    with pytest.raises(LuminaError):  # nothing is left out because of it
        texts(tmp_path / name, [])


def test_a_parquet_member_that_is_too_large_to_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path / "a.parquet", RECORDS)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(path, "a.parquet")
    size = path.stat().st_size
    monkeypatch.setattr(columnar, "HELD_BYTES", size)
    assert texts(tmp_path / "b.zip") == TEXTS
    monkeypatch.setattr(columnar, "HELD_BYTES", size - 1)
    error = refused(tmp_path / "b.zip")
    assert error.code == "E101" and "held in memory" in error.message
    assert texts(path) == TEXTS  # a file by itself is read in parts
