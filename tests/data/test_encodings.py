"""Files that are not UTF-8: read as `--encoding` says, and never as something else."""

from __future__ import annotations

import csv
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from lumina import Config
from lumina.cli.main import main
from lumina.data.documents import ReadOptions, Skipped, read_documents
from lumina.data.readers.encodings import encoding_of, parsed
from lumina.data.sources.find import find_sources
from lumina.data.streaming.text_source import TextSource
from lumina.data.text_files import TextFiles
from lumina.errors import LuminaError

WORDS = {
    "latin-1": "Façade d'école, señor",
    "cp1252": "“Anführung” – 5 €",
    "cp1251": "Все люди рождаются свободными",
    "koi8-r": "Все люди рождаются свободными",
    "gb18030": "人人生而自由，在尊严",
    "shift_jis": "すべての人間は表示ソ十",  # second bytes that are a backslash
    "euc-kr": "모든 인간은 태어날 때부터",
    "utf-8": "Żółć 🎉",
}


def write(folder: Path, form: str, texts: list[str], encoding: str) -> Path:
    path = folder / f"data.{form}"
    with open(path, "w", encoding=encoding, newline="") as file:
        if form == "txt":
            file.write("<|endoftext|>".join(texts))
        elif form == "jsonl":
            file.writelines(
                json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts
            )
        elif form == "json":
            json.dump([{"text": text} for text in texts], file, ensure_ascii=False)
        else:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
    return path


def read(paths: list[Path], *encodings: str, **how: object) -> list[str]:
    options = ReadOptions(encodings=parsed(encodings))
    found = read_documents(paths, options=options, **how)  # type: ignore[arg-type]
    return [document.text or "" for document in found]


@pytest.mark.parametrize("form", ["txt", "jsonl", "json", "csv"])
@pytest.mark.parametrize("encoding", WORDS)
def test_text_comes_back_from_every_encoding_and_format(
    tmp_path: Path, encoding: str, form: str
) -> None:
    texts = [f"{n}: {WORDS[encoding]}" for n in range(5)]
    path = write(tmp_path, form, texts, encoding)
    assert read([path], encoding) == texts
    if encoding != "utf-8":
        assert {one.code for one in skipped(path)} & {"E101", "E103"}


def skipped(path: Path, *encodings: str) -> list[Skipped]:
    found: list[Skipped] = []
    read([path], *encodings, errors="skip", on_skip=found.append)
    return found


def test_reading_goes_on_at_the_byte_of_a_record(tmp_path: Path) -> None:
    texts = [f"{n}: {WORDS['shift_jis']}" for n in range(9)]
    path = write(tmp_path, "jsonl", texts, "shift_jis")
    options = ReadOptions(encodings=parsed(["shift_jis"]))
    whole = list(read_documents([path], options=options))
    rest = read_documents([path], options=options, begin=whole[6].place)
    assert [one.text for one in rest] == texts[6:]


@pytest.mark.covers("CFG-09: E103 encoding")
def test_a_byte_that_an_encoding_lacks_is_counted_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "a\x80"}\n{"text": "b\x81"}\n{"text": "c\xe9"}\n')
    assert read([path], "cp1252", errors="skip") == ["a€", "cé"]
    [bad] = skipped(path, "cp1252")
    assert (bad.code, bad.line) == ("E103", 2)
    assert "not CP1252 at byte 26 (0x81)" in bad.reason
    path.write_bytes('\ufeff{"text": "é"}\n'.encode())
    [bad] = skipped(path, "latin-1")
    assert bad.code == "E103" and "the mark of UTF-8" in bad.reason
    assert read([path]) == ["é"]


def test_patterns_state_encodings_of_some_files(tmp_path: Path) -> None:
    archive = tmp_path / "texts.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("all/French-Latin1", "Façade".encode("latin-1"))
        file.writestr("all/Greek-UTF8", "Όλοι")
        file.writestr("old/greek.txt", "Όλοι".encode("iso8859-7"))
    given = ("*-Latin1=latin-1", "old/*=iso8859-7")
    assert read([archive], *given) == ["Façade", "Όλοι", "Όλοι"]
    known = parsed([*given, "cp1252"])
    names = ["x-Latin1", "a/old/b.txt", "b.txt"]
    assert [encoding_of(known, one) for one in names] == [
        "iso8859-1", "iso8859-7", "cp1252",
    ]  # fmt: skip
    assert encoding_of(parsed(given), "b.txt") == "utf-8"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["latin-9000"], "'latin-9000' is no encoding"),
        (["utf-16"], "no encoding of text of which ASCII"),
        (["cp037"], "no encoding of text of which ASCII"),
        (["utf-7"], "no encoding"),
        (["unicode_escape"], "no encoding"),
        (["base64"], "no encoding"),
        (["a\0b"], "no encoding"),
        (["latin-1", "cp1252"], "2 encodings for all files"),
        (["=latin-1"], "no pattern"),
    ],
)
def test_what_is_no_encoding_is_refused(given: list[str], says: str) -> None:
    with pytest.raises(LuminaError, match="E005") as caught:
        parsed(given)
    assert says in str(caught.value)


def test_encodings_that_nothing_has_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "txt", ["text"], "utf-8")
    for loading in (TextFiles, TextSource):
        with pytest.raises(LuminaError, match="no file has such a name"):
            loading(Config(train_data=(str(path),), encoding=("*.old=latin-1",)))
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(LuminaError, match="encoding is about"):
        TextFiles(
            Config(train_data=(str(tmp_path / "data.parquet"),), encoding=("cp1252",))
        )
    with tarfile.open(tmp_path / "a.tar", "w"):
        TextFiles(
            Config(train_data=(str(tmp_path / "a.tar"),), encoding=("*.old=latin-1",))
        )


def test_the_commands_of_data_take_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, "jsonl", ["Façade d'école"], "latin-1"))
    assert main(["data", "show", path, "--encoding", "latin-1"]) == 0
    assert "Façade d'école" in capsys.readouterr().out
    assert main(["data", "validate", path]) == 1
    capsys.readouterr()
    mended = tmp_path / "new.jsonl"
    words = ["--encoding", "latin-1", "--fix-errors", str(mended)]
    assert main(["data", "validate", path, *words]) == 0
    assert json.loads(mended.read_text(encoding="utf-8"))["text"] == "Façade d'école"


def test_no_line_of_the_declaration_of_human_rights_is_lost(
    shared_data: Path,
) -> None:
    [source] = find_sources([str(shared_data / "text/udhr.zip")])
    lost: list[Skipped] = []
    options = ReadOptions(encodings=parsed(["*-Latin1=latin-1"]))
    found = read_documents(
        [source], options=options, errors="skip", on_skip=lost.append
    )
    latin = sum("-Latin1" in one.source for one in found)
    assert latin > 180
    assert not [one for one in lost if "-Latin1" in one.source]
