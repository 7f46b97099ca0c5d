"""Reading files: formats, roles, and every way in which data can be bad."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lumina.data import documents
from lumina.data.documents import Document, Skipped, read_documents
from lumina.data.readers import text as text_reader
from lumina.errors import LuminaError


def texts(*paths: Path | str, **options: Any) -> list[str | None]:
    return [document.text for document in read_documents(paths, **options)]


def jsonl(path: Path, *records: Any) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def refused(path: Path | str, **options: Any) -> LuminaError:
    with pytest.raises(LuminaError) as caught:
        list(read_documents([path], **options))
    assert caught.value.hint or caught.value.code == "E104"
    return caught.value


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@contextlib.contextmanager
def another_user() -> Iterator[Path]:
    """A folder in /tmp, and this process without root's right to read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        os.seteuid(os.getuid())
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


@pytest.mark.covers("DAT-03: .txt continuous text")
def test_a_text_file_is_one_document_with_its_blank_lines(tmp_path: Path) -> None:
    text = "one\n\n\ntwo\r\n  three"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert texts(tmp_path / "a.txt") == [text]


@pytest.mark.covers("DAT-03: .txt continuous text")
def test_a_separator_divides_a_text_file(tmp_path: Path) -> None:
    mark = documents.SEPARATOR
    (tmp_path / "a.txt").write_text(f"one\n\nmore\n{mark}\ntwo{mark}three\n{mark}\n\n")
    assert texts(tmp_path / "a.txt") == ["one\n\nmore", "two", "three"]


@pytest.mark.covers("DAT-03: .jsonl with text field")
def test_text_records_and_blank_lines_in_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "ä 🎉"}, "", {"text": "b", "id": 3})
    found = list(read_documents([path]))
    assert [(d.text, d.line) for d in found] == [("ä 🎉", 1), ("b", 3)]


@pytest.mark.covers("DAT-01: messages list of role/content", "DAT-02")
def test_roles_of_a_conversation_are_mapped(tmp_path: Path) -> None:
    for human in ("user", "human", "prompter", "Human"):
        for machine in ("assistant", "ai", "bot", "gpt"):
            path = jsonl(
                tmp_path / "a.jsonl",
                chat((human, "hi"), (machine, "yes?"), ("system", "be kind")),
            )
            (document,) = read_documents([path])
            assert [(m["role"], m["content"]) for m in document.messages or ()] == [
                ("system", "be kind"),
                ("user", "hi"),
                ("assistant", "yes?"),
            ]


@pytest.mark.covers("DAT-01: optional conversation_id")
def test_conversation_id_is_allowed_and_sharegpt_is_understood(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    path = jsonl(
        tmp_path / "a.jsonl",
        {**chat(("user", "q"), ("assistant", "a")), "conversation_id": "7"},
        {"conversations": turns},
    )
    first, second = read_documents([path])
    assert first.messages == second.messages


@pytest.mark.covers("DAT-06", "DAT-04: directories of files")
def test_formats_are_told_apart_in_folders_and_globs(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    (tmp_path / "b.txt").write_text("b")
    (deep / "c.txt").write_text("c")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "notes.pdf").write_text("ignored in a folder")
    jsonl(tmp_path / "a.jsonl", {"text": "a"}, chat(("user", "x"), ("bot", "y")))
    assert texts(tmp_path) == ["a", None, "b", "c"]
    assert texts(f"{tmp_path}/**/*.txt") == ["b", "c"]
    # A file named twice is still read once.
    assert texts(tmp_path / "b.txt", tmp_path) == ["b", "a", None, "c"]


@pytest.mark.covers("CFG-07: format")
def test_an_unsupported_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    error = refused(tmp_path / "a.pdf")
    assert error.code == "E101" and ".pdf" in error.message
    assert ".jsonl" in error.hint


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.txt").code == "E104"
    assert refused(tmp_path / "none.txt", errors="skip").code == "E104"
    assert refused(f"{tmp_path}/*.txt").code == "E104"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").code == "E105"


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text(" \n\n ")
    jsonl(tmp_path / "c.jsonl", "")
    for name in ("a.txt", "b.txt", "c.jsonl"):
        error = refused(tmp_path / name)
        assert error.code == "E105" and name in error.message


BROKEN = [
    ("E101", '{"text": "a"', "not JSON"),
    ("E101", "[1, 2]", "expected a JSON object, found a list"),
    ("E101", "[" * 100_000, "not usable JSON"),
    ("E102", {"prompt": "a", "answer": "b"}, "'answer', 'prompt'"),
    ("E102", {"text": 3}, "'text' is a number, not a string"),
    ("E102", {"messages": "hi"}, "'messages' is a string, not a list"),
    ("E102", {"messages": [{"content": "hi"}]}, "message 1 has no 'role'"),
    ("E102", {"messages": [{"role": "user"}]}, "message 1 has no 'content'"),
    ("E102", {"messages": ["hi"]}, "message 1 is a string, not an object"),
    ("E102", chat(("user", "hi"), ("wizard", "x")), "unknown role 'wizard'"),
    ("E102", chat(("user", "hi")), "no turn of the assistant"),
    ("E102", chat(("user", "hi"), ("ai", " ")), "message 2 has an empty 'content'"),
    ("E103", '{"text": "a\\ud800b"}', "half a surrogate pair"),
    ("E105", {"text": "  "}, "'text' is empty"),
    ("E105", {"messages": []}, "'messages' is empty"),
]


@pytest.mark.covers("CFG-09: E101 format", "CFG-09: E102 fields")
@pytest.mark.parametrize(("code", "record", "reason"), BROKEN)
def test_a_bad_record_stops_or_is_skipped_with_its_place(
    tmp_path: Path, code: str, record: Any, reason: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "good"}, record, {"text": "fine"})
    error = refused(path)
    assert error.code == code
    assert f"{path}, line 2" in error.message and reason in error.message
    skipped: list[Skipped] = []
    assert texts(path, errors="skip", on_skip=skipped.append) == ["good", "fine"]
    (record,) = skipped
    assert (record.source, record.line, record.code) == (str(path), 2, code)
    assert reason in record.reason


def test_an_object_spread_over_lines_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a"}, indent=1))
    assert "one whole object on every line" in refused(path).message


@pytest.mark.covers("CFG-09: E103 encoding")
def test_wrong_encoding_names_byte_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\ncaf\xe9\nlast\n")
    error = refused(path)
    assert error.code == "E103"
    assert "line 2" in error.message and "byte 9 (0xe9)" in error.message
    assert "iconv" in error.hint
    skipped: list[Skipped] = []
    assert texts(path, errors="skip", on_skip=skipped.append) == ["first\nlast\n"]
    assert [(s.line, s.code) for s in skipped] == [(2, "E103")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_unicode_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("some text".encode(encoding))
    error = refused(path)
    assert error.code == "E103" and encoding.upper() in error.message


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"text")
    (tmp_path / "b.jsonl").write_bytes(codecs.BOM_UTF8 + b'{"text": "b"}')
    assert texts(tmp_path) == ["text", "b"]
    joined = (tmp_path / "b.jsonl").read_bytes() + b"\n"
    (tmp_path / "b.jsonl").write_bytes(2 * joined)  # cat a.jsonl b.jsonl
    assert texts(tmp_path) == ["text", "b", "b"]


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_line_of_10_mb_is_never_held_in_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    good = '{"text": "good"}\n'
    path.write_text(good + '{"text": "' + "x" * 10_000_000 + '"}\n' + good)
    error = refused(path, max_record_bytes=2**20)
    assert error.code == "E101" and f"{path}, line 2" in error.message
    assert "10,000,013 bytes" in error.message and "1,048,576" in error.message
    skipped: list[Skipped] = []
    tracemalloc.start()
    found = texts(path, errors="skip", max_record_bytes=2**20, on_skip=skipped.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "".join(found).count("good") == 2
    assert [(s.line, s.code) for s in skipped] == [(2, "E101")]
    assert peak < 4 * 2**20
    # Within the limit the same line is read.
    assert "x" * 100 in "".join(texts(path, max_record_bytes=11_000_000))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_file_without_permission_as_another_user() -> None:
    with another_user() as folder:
        _check_permissions(folder, become=65534)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_without_permission() -> None:
    with another_user() as folder:
        _check_permissions(folder, become=os.getuid())


def _check_permissions(folder: Path, become: int) -> None:
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    (folder / "b.txt").chmod(0)
    locked = folder / "locked"
    locked.mkdir()
    (locked / "c.txt").write_text("c")
    locked.chmod(0)
    os.seteuid(become)
    error = refused(folder / "b.txt")
    assert error.code == "E106" and "b.txt" in error.message
    skipped: list[Skipped] = []
    found = texts(f"{folder}/*.txt", errors="skip", on_skip=skipped.append)
    assert found == ["a"]
    assert [(Path(s.source).name, s.code) for s in skipped] == [("b.txt", "E106")]
    # Folders were named by the user, so they must be readable.
    assert refused(folder).code == "E106"
    assert refused(locked / "c.txt").code == "E106"
    os.seteuid(os.getuid())
    locked.chmod(0o755)


def test_a_long_text_comes_in_pieces_that_join_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_reader, "PIECE_BYTES", 100)
    text = "".join(f"line {n}\n" + "\n" * (n % 3) for n in range(100))
    (tmp_path / "a.txt").write_text(text + documents.SEPARATOR + "next")
    found: list[Document] = list(read_documents([tmp_path / "a.txt"]))
    assert len(found) > 5
    assert "".join(d.text or "" for d in found[:-1]) == text.rstrip("\n")
    assert [d.continues for d in found] == [False, *[True] * (len(found) - 2), False]
    assert found[-1].text == "next"
    # Cut where no tokenizer joins: not beside an empty line.
    for before, after in itertools.pairwise(d.text or "" for d in found[:-1]):
        assert not before.endswith("\n\n") and not after[0].isspace()
    lines = text.split("\n")
    assert all(lines[d.line - 1] == (d.text or "").split("\n")[0] for d in found[:-1])
    for number, document in enumerate(found):
        rest = read_documents([tmp_path / "a.txt"], begin=document.place)
        assert list(rest) == found[number:]


def test_a_limit_beyond_any_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one line\n")
    assert [d.text for d in read_documents([file], max_record_bytes=2**70)] == [
        "one line\n"
    ]
