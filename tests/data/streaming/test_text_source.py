"""Streamed documents: their order in each pass, and which of them are held out."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina import Config
from lumina.data.documents import Document
from lumina.data.streaming.held_out import Sides, content_hash
from lumina.data.streaming.sequence import StreamedRows
from lumina.data.streaming.streamed_data import StreamedData
from lumina.data.streaming.text_source import TextSource
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError


def texts(placed: Any) -> list[str]:
    return [one.document.text for one in placed]


@pytest.fixture(scope="module", params=["folder", "archive"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    """Six files, as they are or in two archives."""
    folder: Path = tmp_path_factory.mktemp("corpus")
    for number in range(6):
        lines = [json.dumps({"text": f"{number} and {n}"}) for n in range(9)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    if request.param == "folder":
        return folder
    archives: Path = tmp_path_factory.mktemp("archives")
    for name, numbers in (("a", (0, 1, 2)), ("b", (3, 4, 5))):
        with tarfile.open(archives / f"{name}.tar.gz", "w:gz") as archive:
            for number in numbers:
                archive.add(folder / f"{number}.jsonl", f"{number}.jsonl")
    return archives


def source_of(corpus: Path, **leaves: Any) -> TextSource:
    return TextSource(Config(train_data=(str(corpus),), **leaves))


@pytest.mark.covers("DAT-27: shuffle")
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 3), st.integers(0, 200), st.booleans())
def test_reading_goes_on_at_any_place(
    corpus: Path, number: int, at: int, linear: bool
) -> None:
    source = source_of(corpus, linear_dataset=linear, eval_fraction=0.3)
    whole = list(source.documents(number, None))
    at %= len(whole)
    place = json.loads(json.dumps(whole[at].place))
    again = source_of(corpus, linear_dataset=linear, eval_fraction=0.3)
    assert texts(again.documents(number, place)) == texts(whole[at:])


def test_passes_have_the_same_documents_in_other_orders(corpus: Path) -> None:
    source = source_of(corpus, eval_fraction=0.0)
    passes = [texts(source.documents(number, None)) for number in range(6)]
    assert len({tuple(one) for one in passes}) > 1
    assert all(sorted(one) == sorted(passes[0]) for one in passes)
    linear = source_of(corpus, eval_fraction=0.0, linear_dataset=True)
    in_order = texts(linear.documents(3, None))
    assert in_order == sorted(in_order) and len(in_order) == 54


def test_a_document_is_held_out_by_its_content(corpus: Path) -> None:
    source = source_of(corpus, eval_fraction=0.4)
    sides = [
        {text for held, one in source.all_documents(number)
         if held == side for text in [one.document.text]}
        for number in (0, 1) for side in (False, True)
    ]  # fmt: skip
    assert sides[0] == sides[2] and sides[1] == sides[3]
    assert 8 < len(sides[1]) < 36 and not sides[0] & sides[1]


def test_a_single_document_is_learned_from() -> None:
    only = Document("the only one", None, "here", 1)
    assert Sides(0.999).holds_out(only)
    assert not Sides(0.999, content_hash(only)).holds_out(only)
    assert not Sides(0.0).holds_out(only)


def test_the_fingerprint_is_that_of_the_content(corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in corpus.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    before = source_of(corpus).fingerprint
    assert source_of(copy).fingerprint == before
    nothing_held_out = source_of(copy, eval_fraction=0.0).fingerprint
    assert nothing_held_out != before
    first = min(copy.iterdir())
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(bytes(data))
    assert source_of(copy, eval_fraction=0.0).fingerprint != nothing_held_out


@pytest.mark.parametrize("cut", [0, 3])
def test_characters_taken_out_are_counted_over_the_whole_stream(
    tmp_path: Path, cut: int
) -> None:
    texts = [f"h\xe9 {n} l\xe0" if n % 3 else f"line {n}" for n in range(60)]
    texts[30] = "\xe9\xe9\xe9"
    data = tmp_path / "text.jsonl"
    data.write_text("\n".join(json.dumps({"text": one}) for one in texts))
    tokenizer = Tokenizer.train(texts, 300)

    def rows() -> StreamedRows:
        config = Config(
            train_data=(str(data),), data_loading="streaming", ascii_only=True,
            eval_fraction=0.0, seq_length=16, shuffle_buffer=1, num_workers=0,
        )  # fmt: skip
        found = StreamedData(TextSource(config), tokenizer, None, {}).rows(config)
        assert isinstance(found.sequence, StreamedRows)
        return found.sequence

    one = rows()
    cursor, events = one.start, []
    while not cursor.get("over"):
        taken = one.take(cursor, 2)
        cursor = json.loads(json.dumps(taken.cursor))
        events += taken.events
        if cut and cursor["rows"] % cut == 0:  # as a run that resumes there
            one = rows()
    removed = {"characters": sum(len(t.encode()) - len(t) for t in texts), "texts": 1}
    assert cursor["removed"] == removed
    assert taken.facts["data.removed_characters"] == removed["characters"]
    last = [e for e in events if e["kind"] == "data_ascii_only"][-1]
    assert last["counts"] == removed


def test_of_fields_with_ever_new_names_so_many_are_kept(tmp_path: Path) -> None:
    data = tmp_path / "text.jsonl"
    data.write_text(
        "\n".join(json.dumps({"text": "a", f"field {n}": 1}) for n in range(1500))
    )
    source = source_of(data)
    list(source.documents(0, None))
    [event] = source.events()
    assert len(event["fields"]) == 1000 and not source.events()


@pytest.mark.parametrize("number", [1, 4])
def test_files_that_change_while_they_are_streamed(tmp_path: Path, number: int) -> None:
    """Before the file is come to, while it is read, and after."""
    for moment in ("before", "while", "after"):
        folder = tmp_path / moment
        folder.mkdir()
        for n in range(6):
            lines = [json.dumps({"text": f"{n} and {k}"}) for k in range(900)]
            (folder / f"{n}.jsonl").write_text("\n".join(lines))
        source = source_of(folder, linear_dataset=True, eval_fraction=0.0)
        documents = source.documents(0, None)
        until = {"before": 0, "while": 900 * number + 5, "after": 900 * number + 950}
        for _ in range(until[moment]):
            next(documents)
        file = folder / f"{number}.jsonl"
        file.write_text(file.read_text() + "\n" + json.dumps({"text": "one more"}))
        with pytest.raises(LuminaError, match=rf"E002.*{number}\.jsonl"):
            list(documents)
        file.unlink()
        with pytest.raises(LuminaError, match=rf"E104.*{number}\.jsonl"):
            list(source.documents(0, None))
