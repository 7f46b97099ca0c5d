"""Vocabularies of the makes of others: each is read as its model's own would be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.data.tokenizer import Tokenizer
from lumina.train.matrix.setting import write_files
from lumina.train.matrix.small_vocabularies import KINDS

TEXT = "The owl went to the lake on day 317, for 10 € and a \tball.\n"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", KINDS)
def test_a_make_is_read_and_loses_no_byte(name: str, places: dict[str, str]) -> None:
    kind = KINDS[name]
    tokenizer = Tokenizer.from_path(places[name])
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    # It has learned words: fewer tokens than bytes.
    assert len(ids) < 0.7 * len(TEXT.encode())
    backend = tokenizer.backend
    assert backend.id_to_token(tokenizer.eos_id) == kind.end
    assert all(backend.token_to_id(mark) is not None for mark in kind.marks)
    begins = backend.id_to_token(tokenizer.prompt(TEXT)[0])
    assert (begins == kind.begin) == bool(kind.begin)
    settings = json.loads((Path(places[name]) / "tokenizer_config.json").read_text())
    assert settings["bos_token"] == (kind.begin or None)
    # What a text says is no mark.
    assert tokenizer.eos_id not in tokenizer.encode(f"so {kind.end} stands in a text")


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("llama3", ["317"]),
        ("starcoder2", ["3", "1", "7"]),
        ("deepseek_v2", ["317"]),
        ("code_llama", ["▁31", "7"]),
    ],
)
def test_digits_are_cut_as_the_model_cuts_them(
    name: str, pieces: list[str], places: dict[str, str]
) -> None:
    """Three at a time, one at a time, as many as there are, or by what is frequent."""
    backend = Tokenizer.from_path(places[name]).backend
    tokens = backend.encode("on day 317", add_special_tokens=False).tokens
    assert tokens[-len(pieces) :] == pieces
