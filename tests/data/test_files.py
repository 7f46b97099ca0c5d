"""What a folder of data holds that is not read: counted, and told once."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from lumina import Config, ConfigPresets
from lumina.data.files import SPECIAL_FILES, count_left_out, find_files
from lumina.data.kind import Request
from lumina.data.prepare import prepare
from lumina.data.sudoku_data import KIND
from lumina.errors import LuminaError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (data / "b.doc").write_text("[]")
    (data / "deep" / "c.doc").write_text("[]")
    (data / "d.jsonl.lz4").write_bytes(b"\x04\x22M\x18")
    (data / "e.pdf").write_bytes(b"%PDF")
    (data / "README.md").write_text("about")
    (data / "LICENSE").write_text("free")
    (data / ".hidden.csv").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "z.jsonl").write_text('{"text": "behind a link"}\n')
    (data / "more").symlink_to(elsewhere)
    return data


COUNTS = {
    ".doc": 2,
    "other files": 2,
    ".jsonl.lz4": 1,
    ".pdf": 1,
    "linked folders": 1,
}


def test_what_a_folder_holds_beside_its_data_is_told_each_time(folder: Path) -> None:
    config = ConfigPresets.debug().replace(train_data=[str(folder)], eval_fraction=0.0)
    for cached in (False, True):
        told: list[dict[str, Any]] = []
        prepared = prepare(config, on_event=lambda told=told, **e: told.append(e))
        assert prepared.stats["cached"] is cached and len(prepared.train) == 2
        (event,) = (e for e in told if e["kind"] == "data_files_ignored")
        assert event["severity"] == "warning" and event["counts"] == COUNTS
        assert ".jsonl.lz4 (1), .pdf (1), linked folders (1)" in event["message"]


def test_files_are_counted_once_and_named_files_leave_nothing_out(folder: Path) -> None:
    assert count_left_out([folder, folder / "deep", folder]) == COUNTS
    assert count_left_out([folder / "a.jsonl", folder / "*.jsonl"]) == {}


def test_folders_that_a_pattern_matches_are_told(folder: Path) -> None:
    pattern = str(folder / "*[al]*")
    (folder / "logs").mkdir()
    (folder / "LICENSE").unlink()
    (folder / "README.md").unlink()
    for name in ("b.doc", "d.jsonl.lz4", "e.pdf"):
        (folder / name).unlink()
    assert [file.name for file in find_files([pattern])] == ["a.jsonl"]
    assert count_left_out([pattern]) == {"folders that match a pattern": 1}


def test_only_files_for_people_are_no_warning(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "README.md").write_text("about")
    config = ConfigPresets.debug().replace(
        train_data=[str(tmp_path)], eval_fraction=0.0
    )
    told: list[dict[str, Any]] = []
    prepare(config, on_event=lambda **e: told.append(e))
    (event,) = (e for e in told if e["kind"] == "data_files_ignored")
    assert event["severity"] == "info" and event["counts"] == {"other files": 1}


def test_a_folder_without_data_says_what_it_has(folder: Path) -> None:
    with pytest.raises(LuminaError, match=r"no data files.*; it has .doc \(1\)") as e:
        find_files([folder / "deep"])
    assert e.value.code == "E105"


def test_markdown_is_read_where_it_is_named(tmp_path: Path) -> None:
    shelf = tmp_path / "my books" / "an author"
    shelf.mkdir(parents=True)
    (shelf / "A Book.md").write_text("# A Book\n\nIt begins.\n")
    (shelf / "notes.rst").write_text("Notes\n=====\n")
    with pytest.raises(LuminaError) as caught:
        find_files([tmp_path / "my books"])
    pattern = shlex.split(caught.value.hint)[-1]
    assert pattern == f"{tmp_path}/my books/**/*.md"
    assert find_files([pattern, shelf / "notes.rst"]) == [
        shelf / "A Book.md",
        shelf / "notes.rst",
    ]
    config = ConfigPresets.debug().replace(train_data=[pattern], eval_fraction=0.0)
    prepared = prepare(config)
    text = prepared.tokenizer.decode(prepared.train.document(0)[:-1].tolist())
    assert "# A Book" in text and "It begins." in text


def test_a_folder_with_text_beside_markdown_says_how_to_have_both(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.md").write_text("more")
    config = ConfigPresets.debug().replace(
        train_data=[str(tmp_path)], eval_fraction=0.0
    )
    told: list[dict[str, Any]] = []
    assert len(prepare(config, on_event=lambda **e: told.append(e)).train) == 1
    (event,) = (e for e in told if e["kind"] == "data_files_ignored")
    assert event["message"].endswith(".md files are read where a pattern names them")


def test_files_beside_puzzles_are_told(tmp_path: Path) -> None:
    puzzle = (
        "53..7....6..195....98....6.8...6...34..8.3..1"
        "7...2...6.6....28....419..5....8..79"
    )
    (tmp_path / "a.txt").write_text(puzzle + "\n")
    (tmp_path / "b.csv").write_text(puzzle + "\n")
    told: list[dict[str, Any]] = []
    config = Config(use_hrm=True, seq_length=81, train_data=(str(tmp_path),))
    KIND.prepare(Request(config, on_event=lambda **e: told.append(e)))
    assert [(e["kind"], e["counts"]) for e in told] == [
        ("data_files_ignored", {".csv": 1})
    ]


def test_files_named_again_are_told(tmp_path: Path) -> None:
    """Other trainers read a file as often as it is named."""
    data = tmp_path / "a.jsonl"
    data.write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "same.jsonl").symlink_to(data)
    told: list[dict[str, Any]] = []
    named = [str(data), str(tmp_path / "*.jsonl"), str(tmp_path / "." / "a.jsonl")]
    config = ConfigPresets.debug().replace(train_data=named, eval_fraction=0.0)
    prepared = prepare(config, on_event=lambda **e: told.append(e))
    assert len(prepared.train) == 2
    (event,) = (e for e in told if e["kind"] == "data_files_repeated")
    assert event["severity"] == "warning" and list(event["counts"].values()) == [4]
    assert "a.jsonl (4)" in event["message"]


def test_a_pipe_in_a_folder_is_left_out_and_counted(tmp_path: Path) -> None:
    """To open it would wait for ever."""
    (tmp_path / "a.txt").write_text("a")
    os.mkfifo(tmp_path / "b.txt")
    assert find_files([tmp_path]) == [tmp_path / "a.txt"]
    assert count_left_out([tmp_path]) == {SPECIAL_FILES: 1}
