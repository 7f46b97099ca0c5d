"""A JSON object that a person names is checked, and refused in the same words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina import json_objects
from lumina.config import deepspeed
from lumina.data import arc_tasks, tokenizer_files
from lumina.data.tokenizer_makes import merge_lists
from lumina.errors import LuminaError
from lumina.json_objects import read_object
from lumina.state import earlier_plans
from lumina.state.huggingface import files

READERS: dict[str, Callable[[Path], object]] = {
    "DeepSpeed": deepspeed.translated,
    "a plan of a run": earlier_plans._read,
    "a model folder": files.read_json,
    "ARC tasks": arc_tasks._json,
    "a tokenizer": tokenizer_files._json,
    "a vocabulary": merge_lists._config,
}


def test_an_object_is_given_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"é": [1, null], "x": {"y": 0.5}}', encoding="utf-8")
    assert read_object(path, "") == {"é": [1, None], "x": {"y": 0.5}}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"[1]", "E101", "holds no JSON object"),
        (b'{"a": ', "E101", "is not JSON: Expecting value"),
        (b'{"a": "\xff"}', "E103", "is not UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "E101", "is not JSON"),
    ],
    ids=["no object", "damaged", "not UTF-8", "too deep"],
)
def test_what_is_no_object_is_refused_in_the_same_words(
    reader: str, content: bytes, code: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(content)
    with pytest.raises(LuminaError) as found:
        READERS[reader](path)
    assert found.value.code == code
    assert f"{path} {said}" in found.value.message and found.value.hint


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # of which nothing is on the disk
    monkeypatch.setattr(Path, "read_bytes", pytest.fail)
    with pytest.raises(LuminaError, match=r"too large: 1(\.0)? TiB") as found:
        READERS[reader](path)
    assert found.value.code == "E101"


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to
    for name in ("pipe", "missing", "."):
        with pytest.raises(LuminaError) as found:
            read_object(tmp_path / name, "")
        assert found.value.code == "E104"


def test_a_file_without_permission_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system refuses it, which never refuses root."""
    path = tmp_path / "one.json"
    path.write_text("{}")

    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(json_objects.Path, "read_bytes", refused)
    with pytest.raises(LuminaError, match="no permission to read") as found:
        read_object(path, "")
    assert found.value.code == "E106"
