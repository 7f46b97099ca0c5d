"""Texts without the characters that ASCII does not have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.config import Config
from lumina.data.documents import Document, ReadOptions, read_documents
from lumina.data.prepare import prepare

ASCII = ReadOptions(ascii_only=True)


def _read(path: Path, removed: list[tuple[int, bool]]) -> list[Document]:
    return list(
        read_documents(
            [path],
            options=ASCII,
            on_removed=lambda n, whole: removed.append((n, whole)),
        )
    )


@pytest.mark.covers("TOK-09: --ascii-only filter")
def test_characters_are_taken_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    turns = [
        {"role": "user", "content": "Größe?"},
        {"role": "assistant", "content": "5"},
    ]
    empty = [turns[0], {"role": "assistant", "content": "五"}]
    records = [{"text": "naïve"}, {"text": "漢字"}, {"text": "plain"}]
    records += [{"messages": turns}, {"messages": empty}]  # type: ignore[dict-item]
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    removed: list[tuple[int, bool]] = []
    texts = [
        one.text or [message["content"] for message in one.messages or ()]
        for one in _read(path, removed)
    ]
    assert texts == ["nave", "plain", ["Gre?", "5"]]
    assert removed == [(1, False), (2, True), (2, False), (3, True)]


def test_pieces_of_a_long_text_stay_one_document(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    other = "漢" * 70 + "\n"
    lines = [other] * 3000 + ["A line of plain words.\n"] * 9000 + [other] * 3000
    path.write_text("".join(lines) + "<|endoftext|>Another.")
    documents = _read(path, [])
    assert [one.text for one in documents if not one.continues][1:] == ["Another."]
    assert documents[0].continues is False
    joined = "".join(one.text or "" for one in documents[:-1])
    assert joined.isascii() and joined.count("A line of plain words.") == 9000


@pytest.mark.covers("TOK-09: --ascii-only filter")
def test_a_store_is_made_for_each_choice_and_its_counts_are_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.txt"
    path.write_text("Größe " * 50 + "\n")
    config = {"train_data": [str(path)], "eval_fraction": 0.0}
    whole = prepare(Config(**config))
    for cached in (False, True):
        filtered = prepare(Config(**config, ascii_only=True))
        assert filtered.stats["cached"] is cached
        assert filtered.stats["ascii_only"] == {"characters": 100}
    assert whole.stats["ascii_only"] == {}
    assert filtered.tokenizer.fingerprint != whole.tokenizer.fingerprint
