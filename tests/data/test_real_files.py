"""Data that people feed a trainer, as it is: what each file gives, and what not.

A new row is all that another file needs. The figures were counted by hand, or with
another program, once (tar -t, unzip -l, wc -l, jq length).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import unicodedata
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lumina import ConfigPresets
from lumina.cli.main import main
from lumina.data.documents import read_documents
from lumina.data.reading_options import reading_options
from lumina.data.skipping import Skipped
from lumina.train import Trainer


@dataclass(frozen=True)
class Real:
    """A file, or several.

    Attributes:
        path: below the folder of third-party data; a pattern for several.
        documents: that it gives.
        conversations: of these.
        options: of the data, where the file does not speak for itself.
        skipped: bad records by their code.
        left_out: members of archives that are no data.
        first: how the first document begins.
        failed: checks of the first documents that it fails.
        slow: reading it takes more than a second.
        quick: it stands for the others among the quick tests.
        loading: how it is loaded for training.
    """

    path: str
    documents: int
    conversations: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    first: str = ""
    failed: tuple[str, ...] = ()
    slow: bool = False
    quick: bool = False
    loading: str = "auto"


QUESTION = {"field": ("question=prompt", "answer=completion")}
SOLUTION = {"field": ("canonical_solution=completion",)}
NO_SUFFIX = "files without a suffix that are not text"

TABLE = [
    Real(
        "text/classic-books.tar.xz",
        109,
        first="The Wealth of Nations",
        slow=True,
        loading="streaming",
    ),
    Real(
        "text/peps-rst.tar.xz",
        736,
        first="PEP: 1\nTitle: PEP Purpose",
        slow=True,
        loading="streaming",
    ),
    Real(
        "text/udhr.zip",
        308,
        skipped={"E103": 8582},
        left_out={".60375": 1, ".normal0117": 1, ".lat0117": 1, NO_SUFFIX: 1},
    ),
    Real(
        "text/udhr.zip",
        322,
        options={
            "encoding": (
                "*-Latin1=latin-1",
                "*-Latin2=iso8859-2",
                "*-Cyrillic=cp1251",
                "*-Greek=iso8859-7",
            )
        },
        skipped={"E103": 1662},
        left_out={".60375": 1, ".normal0117": 1, ".lat0117": 1, NO_SUFFIX: 1},
    ),
    Real(
        "text/tinyshakespeare.txt",
        1,
        first="First Citizen:\nBefore we proceed",
        quick=True,
    ),
    Real("chat/gsm8k_train.jsonl", 7473, 7473, QUESTION, first="Natalia sold clips"),
    Real(
        "chat/gsm8k_test.jsonl",
        1319,
        1319,
        QUESTION,
        first="Janet’s ducks lay",
        quick=True,
    ),
    Real("chat/oasst_en_100_tree.jsonl", 100, 100, first="How can I find the best"),
    Real("chat/fastchat_dummy_conversation.json", 500, 500, first="Who are you?"),
    Real(
        "chat/llamafactory_glaive_toolcall_en_demo.json", 300, 300, first="Hi, I have"
    ),
    Real("chat/self_instruct_seed_tasks.jsonl", 175, 175, first="Is there anything"),
    Real("chat/mt_bench_question.jsonl", 0, skipped={"E102": 80}),
    Real(
        "eval/HumanEval.jsonl.gz",
        164,
        164,
        {"field": ("canonical_solution=completion",)},
    ),
    Real("eval/mbpp.jsonl", 974, first="Write a function to find the"),
    Real(
        "eval/hellaswag_val_full.txt.bz2",
        1,
        first="Roof shingle removal",
        failed=("encoding",),  # a line has U+FFFD
        slow=True,
        loading="streaming",
    ),
    Real(
        "eval/mmlu/anatomy_*.csv",
        140,
        140,
        QUESTION,
        first="What is the embryological origin of the hyoid bone?",
    ),
]


def rows() -> list[Any]:
    return [
        pytest.param(row, id=row.path, marks=[pytest.mark.slow] if row.slow else [])
        for row in TABLE
    ]


@pytest.mark.covers(
    "DAT-05: archives .tar, .tar.gz, .tar.bz2, .zip read directly", "DAT-06"
)
@pytest.mark.parametrize("row", rows())
def test_a_real_file_gives_what_is_in_it(shared_data: Path, row: Real) -> None:
    skipped: list[Skipped] = []
    left_out: Counter[str] = Counter()
    path = shared_data / row.path
    data = ConfigPresets.debug().replace(train_data=[str(path)], **row.options).data
    documents = conversations = 0
    first = ""
    for document in read_documents(
        [path],
        errors="skip",
        on_skip=skipped.append,
        on_left_out=lambda kind, name: left_out.update([kind]),
        **reading_options(data).given(),
    ):
        documents += not document.continues
        conversations += document.messages is not None
        turns = [m for m in document.messages or () if m["role"] != "system"]
        first = first or document.text or turns[0]["content"]
    assert (documents, conversations) == (row.documents, row.conversations)
    assert Counter(record.code for record in skipped) == row.skipped
    assert left_out == row.left_out
    assert row.first in first[:300]


@pytest.mark.parametrize("most", [1, pytest.param(109, marks=pytest.mark.slow)])
def test_books_are_byte_for_byte_those_of_the_manifest(
    shared_data: Path, most: int
) -> None:
    lines = (shared_data / "text/classic-books-manifest.tsv").read_text().splitlines()
    books = [line.split("\t") for line in lines][:most]
    archive = shared_data / "text/classic-books.tar.xz"
    found = {f"{archive}/{name}": hashlib.sha256() for name, *_ in books}
    for document in read_documents([archive]):
        if document.source not in found:
            break
        found[document.source].update((document.text or "").encode())
    assert [digest.hexdigest() for digest in found.values()] == [b[2] for b in books]


def test_the_declaration_is_read_in_every_script_that_is_utf8(
    shared_data: Path,
) -> None:
    path = shared_data / "text/udhr.zip"
    found: dict[str, str] = {}
    for document in read_documents([path], errors="skip"):
        name = document.source.removeprefix(f"{path}/")
        found[name] = found.get(name, "") + (document.text or "")
    known = ""
    with zipfile.ZipFile(path) as archive:
        for name in found:
            with contextlib.suppress(UnicodeDecodeError):
                text = archive.read(name).decode("utf-8-sig")
                assert found[name] == text
                known += text
    names = (unicodedata.name(letter) for letter in set(known) if letter.isalpha())
    scripts = {name.split()[0] for name in names}
    assert scripts > {"LATIN", "ARABIC", "HEBREW", "CYRILLIC", "CJK", "HANGUL"}


def heavy(row: Real) -> list[Any]:
    """Marks of what reads or trains on a file."""
    return [] if row.quick else [pytest.mark.thorough]


@pytest.mark.covers("DAT-06")
@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.path, marks=heavy(row)) for row in TABLE]
)
def test_a_real_file_is_validated_and_shown(
    shared_data: Path, row: Real, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(shared_data / row.path)
    words = [path]
    for name, values in row.options.items():
        words += [f"--{name}", *values]
    code = main(["data", "validate", *words, "--max-check", "20", "--json"])
    report = json.loads(capsys.readouterr().out)
    whole = row.documents or sum(row.skipped.values())
    assert report["documents"] == min(whole, 20)
    assert report["failed"] == bool(code)
    failed = [one["name"] for one in report["results"] if one["verdict"] == "failed"]
    if not row.skipped:
        assert tuple(failed) == row.failed
    tokenizer = str(shared_data / "tokenizers/gpt2/gpt2_tokenizer.json")
    code = main(["data", "show", *words, "--tokenizer", tokenizer, "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert code == int(not row.documents)
    assert Path(path).parent.as_posix() in shown["source"]
    assert row.first in json.dumps(shown, ensure_ascii=False).replace("\\n", "\n")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.documents], ids=lambda row: row.path
)
def test_a_real_file_trains_twenty_steps(
    shared_data: Path, tmp_path: Path, row: Real
) -> None:
    config = ConfigPresets.debug().replace(
        train_data=[str(shared_data / row.path)],
        run_dir=str(tmp_path / "run"),
        steps=20,
        data_errors="skip",
        data_loading=row.loading,
        tokenizer_vocab_size=300,
        **row.options,
    )
    result = Trainer(config).train()
    assert result.steps == 20
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
