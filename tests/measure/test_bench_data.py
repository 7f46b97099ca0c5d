"""`lumina bench data`: every part measures what it says, with small amounts."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.measure.bench.text import generated_texts, write_json_lines

SMALL = [
    "--megabytes", "0.05", "--gigabytes", "0.004", "--window-megabytes", "1",
    "--files", "200", "--rounds", "1", "--cores", "1",
]  # fmt: skip


def results(folder: Path, *words: str) -> dict[str, Any]:
    out = folder / "out.json"
    made = folder / "made"
    made.mkdir()
    tokenizer = folder / "tokenizer"
    Tokenizer.train(islice(generated_texts(), 30), 500).save(tokenizer)
    small = [
        *SMALL,
        "--tokenizer",
        str(tokenizer),
        "--folder",
        str(made),
        "--out",
        str(out),
    ]
    assert main(["bench", "data", *words, *small]) == 0
    assert not list(made.iterdir())
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.thorough
@pytest.mark.covers("DAT-05: many small files handled", "DAT-21")
def test_memory_and_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = results(tmp_path, "files", "memory", "work")
    assert found["work"]["tokenizers"] == 1 and found["work"]["stream"] > 0
    assert found["files"]["files"] == 200 and found["files"]["rows"] > 0
    memory = found["memory"]
    assert memory["file_gb"] == pytest.approx(0.004, rel=0.01)
    assert memory["tokens"] > 1e6 / 10 and memory["peak_memory_mib"] > 10
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.slow
def test_ways_of_making_tokens_are_compared(tmp_path: Path) -> None:
    found = results(tmp_path, "tokens")["tokens"]
    assert set(found) >= {"tokenizers", "store", "stream"}
    assert found["tokenizers"]["wall_ratio"] == 1
    assert all(way["cpu"] > 0 for way in found.values())


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", "speed"]) == 2
    assert "parts are tokens, work, memory, files" in capsys.readouterr().err


def test_documents_of_a_large_file_differ(tmp_path: Path) -> None:
    count = write_json_lines(tmp_path / "f.jsonl", 3 * 2**20)
    lines = (tmp_path / "f.jsonl").read_text().splitlines()
    assert count == len(lines) == len(set(lines))
