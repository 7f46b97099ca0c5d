"""Checks of real files, and where data of a size is best kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina.config import Config
from lumina.data.quality.check import Options
from lumina.data.quality.reports import as_html, as_text
from lumina.data.quality.storage import storage_advice
from quality_data import CLEAN, assess, write

PROMPT = {"format": "prompt", "field": ["question=prompt", "answer=completion"]}
CODE = {"format": "prompt", "field": ["canonical_solution=completion"]}

# File below ../shared/data; how it is read; documents; checks that find errors in it.
REAL = [
    ("text/classic-books.tar.xz", {}, 109, {"encoding"}),
    ("text/peps-rst.tar.xz", {}, 736, {"encoding"}),
    ("text/udhr.zip", {}, None, {"integrity", "encoding"}),
    ("text/tinyshakespeare.txt", {}, 1, set()),
    ("chat/gsm8k_train.jsonl", PROMPT, 7473, set()),
    ("chat/gsm8k_test.jsonl", PROMPT, 1319, set()),
    ("chat/oasst_en_100_tree.jsonl", {}, 100, set()),
    ("chat/fastchat_dummy_conversation.json", {}, 500, set()),
    ("chat/llamafactory_glaive_toolcall_en_demo.json", {}, 300, set()),
    ("chat/self_instruct_seed_tasks.jsonl", {}, 175, set()),
    ("chat/mt_bench_question.jsonl", {}, 80, {"roles", "conversations"}),
    ("eval/HumanEval.jsonl.gz", CODE, 164, set()),
    ("eval/mbpp.jsonl", {}, 974, set()),
    ("eval/hellaswag_val_full.txt.bz2", {}, 1, {"encoding"}),
]


QUICK = [(*row, 3) for row in REAL if row[0].startswith("chat/")]
WHOLE = [pytest.param(*row, None, marks=pytest.mark.slow) for row in REAL]


@pytest.mark.parametrize(
    ("name", "how", "documents", "errors", "most"), [*QUICK, *WHOLE]
)
def test_real_files_are_validated(
    shared_data: Path,
    name: str,
    how: dict[str, Any],
    documents: int | None,
    errors: set[str],
    most: int | None,
) -> None:
    path = shared_data / name
    report = assess(
        [path],
        Options(near_documents=0 if most else 2000),
        max_check=most,
        data=Config(**how).data,
    )
    failed = {one.name for one in report.results if one.verdict == "failed"}
    if most is None:
        assert documents is None or report.documents == documents
        assert failed == errors
    else:
        assert 1 <= report.documents <= most and failed <= errors
    for one in report.results:
        assert one.examples or not one.count


@pytest.mark.covers("DAT-46: storage guidance reported")
@pytest.mark.parametrize(
    ("size", "words"),
    [(10**6, "under 1 GB"), (2 * 10**9, "1 to 50 GB"), (51 * 10**9, "over 50 GB")],
)
def test_where_to_keep_data_is_said_by_its_size(
    tmp_path: Path, size: int, words: str
) -> None:
    path = tmp_path / "data.txt"
    with open(path, "wb") as handle:
        handle.truncate(size)  # a hole: it takes no room on the disk
    assert words in storage_advice([path])


def test_the_advice_is_in_every_report(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", CLEAN)
    report = assess([path], Options(), only=["integrity"])
    assert "under 1 GB" in as_text(report) and "under 1 GB" in as_html(report, "data")
    assert report.to_dict()["storage"] == storage_advice([path])
