"""The combinations of the earlier design: cells that ran, and what they found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lumina.features.measured import committed_rows
from lumina.train.matrix.cell import Cell
from lumina.train.matrix.judge import ABSENT, STATUSES, VERIFIED
from lumina.train.matrix.named import named_cells
from lumina.train.matrix.use_cases import USE_CASES

ROOT = Path(__file__).parents[3]
CELLS = {cell.name: cell for cell in named_cells()}

SLOW = {"MTX-27"}
"""Cells that take too long on the CPU that the others ran on."""


def found(name: str) -> list[dict[str, Any]]:
    """The rows of a cell as it is declared now, on any machine."""
    cell = CELLS[name]
    return [
        dict(row)
        for row in committed_rows()
        if row["named"] == name
        and tuple(row["features"]) == cell.features
        and row["options"] == _plain(cell)
        and row["settles"] == cell.settles
    ]


def _plain(cell: Cell) -> dict[str, Any]:
    both = cell.options | cell.switched
    return {k: list(v) if isinstance(v, tuple) else v for k, v in both.items()}


OPEN = {
    "MTX-01": "memory and time on a GPU",
    "MTX-02": "memory and time on a GPU",
    "MTX-05": "bitsandbytes on CUDA",
    "MTX-09": "the cost of communication",
    "MTX-11": "a stage that divides states alone",
    "MTX-12": "memory and time",
    "MTX-13": "memory and time",
    "MTX-28": "why streamed rows are others than those in memory",
    "MTX-30": "the speed of loading",
}
"""What a row asks for beside agreement, which no cell measures."""


def shown(*names: str) -> Any:
    """The case of a row of the specification, marked where its cells settle it."""
    row = names[0].split()[0]
    marks = () if row in OPEN else (pytest.mark.covers(row),)
    return pytest.param(names, id=row, marks=marks)


@pytest.mark.parametrize(
    "names",
    [
        shown("MTX-01", "MTX-01 DDP"), shown("MTX-02"), shown("MTX-05"),
        shown("MTX-06"), shown("MTX-08"), shown("MTX-09"), shown("MTX-10"),
        shown("MTX-11"), shown("MTX-12"), shown("MTX-13"), shown("MTX-14"),
        shown("MTX-16"), shown("MTX-17"), shown("MTX-18"), shown("MTX-19"),
        shown("MTX-22"), shown("MTX-28"), shown("MTX-29"),
        shown("MTX-30"), shown("MTX-35 several processes", "MTX-35 experts"),
    ],
)  # fmt: skip
def test_a_row_of_the_earlier_design_is_settled(names: tuple[str, ...]) -> None:
    """Its cell, as it is declared now, trained beside its reference and acted."""
    for name in names:
        rows = found(name)
        assert rows, f"{name} has not run as it is declared"
        row = rows[-1]
        assert row["status"] == VERIFIED, row["why"]
        assert row["steps"] >= 50 and set(row["live"]) == set(row["features"])
        figures = row["figures"]
        if "named_expert" not in row["live"]:  # its base had learned before
            assert figures["learned"] < 0.8 * figures["first_loss"]
        assert figures["gradient_error"] <= row["tolerance"]["gradients"]
        assert figures["learned_error"] <= row["tolerance"]["learned"]
        assert min(figures["memory"], figures["step_seconds"]) > 0
        assert {"torch", "python", "lumina"} <= row["hardware"]["versions"].keys()


def test_every_combination_has_run_or_says_what_it_needs() -> None:
    missing = {name for name in CELLS if not found(name)}
    assert missing <= SLOW
    for name in CELLS.keys() - missing:
        row = found(name)[-1]
        assert row["status"] != ABSENT or row["why"].startswith("needs"), name


@pytest.mark.covers("MTX-36")
def test_the_legend_has_every_status_of_both_designs() -> None:
    page = (ROOT / "docs" / "matrix.md").read_text()
    legend = page.partition("| Status | Means")[2].partition("\n\n")[0]
    for status in STATUSES:
        assert f"| {status} |" in legend
    for word in (
        "Verified", "Experimental", "Incompatible", "Untested", "Partial", "Supported",
        "Platform",
    ):  # fmt: skip
        assert word in legend
    assert {row["status"] for row in committed_rows()} <= STATUSES.keys()


@pytest.mark.covers("MTX-41", "MTX-37: generated from executed tests")
def test_the_page_is_what_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    sys.modules.pop("matrix", None)
    import matrix

    page = (ROOT / "docs" / "matrix.md").read_text()
    made = page.partition(matrix.BEGIN)[2].partition(matrix.END)[0]
    assert made.strip() == matrix.page(list(committed_rows())).strip()
    for use in USE_CASES:
        assert f"| {use.name} | `{use.flags}` |" in made


@pytest.mark.parametrize("use", USE_CASES, ids=lambda use: use.cell)
def test_the_settings_of_a_use_are_those_of_its_cell(use: Any) -> None:
    """The flags ask for every feature that the cell has."""
    from lumina.cli.options import add_config_options, config_from_args
    from lumina.cli.parsing import Parser, parse
    from lumina.features import FEATURES

    parser = Parser(prog="lumina train")
    add_config_options(parser)
    words = use.flags.replace(" N ", " 2 ").replace("RUN", "run").split()
    config = config_from_args(parse(parser, words))
    for name in CELLS[use.cell].features:
        assert FEATURES[name].is_requested(config), name
