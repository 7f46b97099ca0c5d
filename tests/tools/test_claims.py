"""Every measured row of the page of claims has raw results, or says why it has none."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "tools/claims.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["claims"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = """
## Speed

Measured on 2026-11-30. Rows of this table are in `benchmarks/results/scaling-x2.json`.

| Claim | Hardware | Result | Verdict |
|---|---|---|---|
| Two GPUs are fast | 2 x H200 | 115,949 tokens/s | measured |
| the same with more | 2 x H200 | {speed} tokens/s | measured |

On 2026-11-30:

| Claim | Hardware | Result | Verdict |
|---|---|---|---|
| The planner is right (`pytest tests/tools/test_claims.py`) | CPU | yes | confirmed |
| the same for others | CPU | yes | confirmed |
| Everything is fine | | | not measured |
"""


def test_the_page_has_raw_results_for_all_that_it_says(tool: ModuleType) -> None:
    page = tool.PAGE.read_text(encoding="utf-8")
    rows = tool.rows_of(page)
    assert len(rows) > 120
    unused = tool.settle(rows, tomllib.loads(tool.TABLE.read_text(encoding="utf-8")))
    assert not tool.faults(rows, unused, page)
    assert tool.listed(rows) in page, "python tools/claims.py --write"
    # A row without raw results is an old exception, and there are fewer and fewer.
    assert sum(bool(row.why_not) for row in rows) <= 6


def test_where_raw_results_are_looked_for(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tool.rows_of(PAGE.format(speed="114,959"))
    assert [row.claim.split()[0] for row in rows] == [
        "Two", "the", "The", "the", "Everything",
    ]  # fmt: skip
    assert tool.settle(rows, {"Speed": {"No such row": ["x.json"]}}) == [
        "Speed: No such row"
    ]
    files = ["scaling-x2.json"]
    assert [row.files for row in rows] == [files, files, [], [], []]
    test = ["tests/tools/test_claims.py"]
    assert [row.tests for row in rows] == [[], [], test, test, []]
    assert not rows[-1].measured and rows[-2].measured
    assert not [line for row in rows for line in tool.wrong_speeds(row)]

    (tmp_path / "claims.toml").touch()
    (tmp_path / "left.json").touch()
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    monkeypatch.setattr(tool, "TABLE", tmp_path / "claims.toml")
    said = tool.faults(rows, [], PAGE)
    assert "there is no benchmarks/results/scaling-x2.json" in said[0]
    assert said[-1] == "benchmarks/results/left.json is of no row"


def test_a_speed_that_no_file_has_is_found(tool: ModuleType) -> None:
    rows = tool.rows_of(PAGE.format(speed="114,969"))
    tool.settle(rows, {})
    (wrong,) = [line for row in rows for line in tool.wrong_speeds(row)]
    assert "114,969 tokens/s is in none of scaling-x2.json" in wrong


def test_a_claim_with_nothing_behind_it_is_named(tool: ModuleType) -> None:
    page = "## X\n\n| Claim | Verdict |\n|---|---|\n| It is fast | confirmed |\n"
    rows = tool.rows_of(page)
    tool.settle(rows, {})
    assert "X: It is fast: no raw data, and no reason why" in tool.faults(
        rows, [], page
    )
    tool.settle(rows, {"X": {"It is": "nobody kept them"}})
    assert rows[0].settled and "| X | It is fast | nobody kept them |" in tool.listed(
        rows
    )


def test_no_reason_excuses_a_new_claim_without_raw_results(tool: ModuleType) -> None:
    page = "## X\n\n| Claim | Date | Result |\n|---|---|---|\n| It is fast | {} | 9 |\n"

    def said(date: str, *, data: object = "nobody kept them") -> list[str]:
        rows = tool.rows_of(page.format(date))
        tool.settle(rows, {"X": {"It is": data}})
        return [line for line in tool.faults(rows, [], "") if line.startswith("X: ")]

    assert said("2026-11-30") == []
    assert said("2026-12-01") == [
        "X: It is fast: measured on 2026-12-01, so its raw data has to be kept"
    ]
    assert said("2026-12-01", data=["scaling-x2.json"]) == []
    assert said("") == ["X: It is fast: no date"]
    assert said("not measured") == []


def test_a_file_without_results_is_named(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "claims.toml").touch()
    (tmp_path / "scaling-x2.json").write_text("[]\n")
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    monkeypatch.setattr(tool, "TABLE", tmp_path / "claims.toml")
    rows = tool.rows_of(PAGE.format(speed="114,959"))
    tool.settle(rows, {})
    (said, *_) = tool.faults(rows, [], PAGE)
    assert "nothing is in benchmarks/results/scaling-x2.json" in said
