"""The combinations of the earlier design: cells that ran, and what they found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lumina.features.measured import ABSENT, VERIFIED, committed_rows
from lumina.train.matrix.cell import Cell
from lumina.train.matrix.judge import STATUSES
from lumina.train.matrix.named import named_cells
from lumina.train.matrix.use_cases import USE_CASES

ROOT = Path(__file__).parents[3]
CELLS = {cell.name: cell for cell in named_cells()}


def found(name: str) -> list[dict[str, Any]]:
    """The rows of a cell as it is declared now, on any machine.

    A machine that lacks what it needs says nothing where another one has run it.
    """
    cell = CELLS[name]
    rows = [
        dict(row)
        for row in committed_rows()
        if row["named"] == name
        and tuple(row["features"]) == cell.features
        and row["options"] == _plain(cell)
        and row["settles"] == cell.settles
    ]
    return [row for row in rows if row["status"] != ABSENT] or rows


def _plain(cell: Cell) -> dict[str, Any]:
    both = cell.options | cell.switched
    return {k: list(v) if isinstance(v, tuple) else v for k, v in both.items()}


OPEN = {
    "MTX-01": "memory and time on a GPU: test_at_size.py",
    "MTX-02": "memory and time on a GPU: test_at_size.py",
    "MTX-03": "the limit on a GPU of 11 GB: test_at_size.py",
    "MTX-11": "a stage that divides states alone; memory at a size where it counts",
    "MTX-12": "memory and time: test_at_size.py",
    "MTX-13": "memory and time at a size where they count",
}
"""What a row asks for beside agreement, which no cell measures."""


def shown(*names: str, clause: str = "") -> Any:
    """The case of a row of the specification, marked where its cells settle it.

    Args:
        names: of its cells.
        clause: the part of the row that they settle; "": all of it.
    """
    row = names[0].split()[0]
    what = f"{row}: {clause}" if clause else row
    marks = () if row in OPEN else (pytest.mark.covers(what),)
    return pytest.param(names, id=row, marks=marks)


CHUNKS = ("MTX-04 chunks of 64", "MTX-04", "MTX-04 chunks of 512")
VOCABULARIES = (
    "MTX-26 GPT-2", "MTX-26 Qwen", "MTX-26 Mistral", "MTX-26 Code Llama",
    "MTX-26 DeepSeek-Coder", "MTX-26 StarCoder", "MTX-26 Phi-3",
)  # fmt: skip
SEVEN = (
    "MTX-26 Qwen", "MTX-26 Mistral", "MTX-26 make of Code Llama",
    "MTX-26 make of DeepSeek-Coder V2", "MTX-26 make of StarCoder2", "MTX-26 Phi-3",
    "MTX-26 make of Llama 3",
)  # fmt: skip
"""Those that TOK-03 names: the vocabulary itself, or a small one of its make."""


@pytest.mark.parametrize(
    "names",
    [
        shown("MTX-01", "MTX-01 DDP"), shown("MTX-02"), shown("MTX-03"),
        shown("MTX-04", *CHUNKS[::2]),
        shown("MTX-05", clause="Checkpointing + 8-bit optimizer"), shown("MTX-06"),
        shown("MTX-08"), shown("MTX-09"), shown("MTX-10"),
        shown("MTX-11"), shown("MTX-12"), shown("MTX-13"), shown("MTX-14"),
        shown("MTX-16"), shown("MTX-17"), shown("MTX-18"), shown("MTX-19"),
        shown("MTX-20", clause="is it real, split, memory"), shown("MTX-21"),
        shown("MTX-22"), shown("MTX-23 window", clause="window-size alternative"),
        shown("MTX-24", clause="Supported when FA2 is installed"),
        shown("MTX-24 without it", clause="else SDPA"),
        shown(*VOCABULARIES, clause="GPT-2 verified"),
        shown(*SEVEN, clause="basic training each"), shown("MTX-27"),
        shown("MTX-28", clause="Streaming + linear mode"), shown("MTX-29"),
        shown("MTX-30", "MTX-30 tar.xz", clause="Archive + training"),
        shown("MTX-35 several processes", "MTX-35 experts"),
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
    for name in CELLS:
        assert found(name), name
        row = found(name)[-1]
        assert row["status"] != ABSENT or row["why"].startswith("needs"), name


def test_the_gradient_of_chunks_takes_less_memory_the_shorter_they_are() -> None:
    """They are real: the row's activations are not there at once.

    On a CPU, where the tensors of one step are counted, and no workspace beside them.
    """
    names = [name.replace("MTX-04", "MTX-20") for name in CHUNKS]
    rows = [
        [r for r in found(name) if r["hardware"]["device"] == "cpu"] for name in names
    ]
    figures = [of_cell[-1]["figures"] for of_cell in rows]
    memory = [one["memory"] for one in figures]
    assert memory == sorted(memory) and memory[0] < 0.8 * memory[-1]
    assert memory[-1] < 0.2 * figures[-1]["memory_reference"]


@pytest.mark.covers("MTX-09")
def test_processes_stay_alike_and_the_cost_of_what_they_send_is_known() -> None:
    (row,) = found("MTX-09")[-1:]
    figures = row["figures"]
    assert row["status"] == VERIFIED and row["ranks"] == 2
    assert figures["states_agree"] == 1
    # Each gradient crosses once a step; parameters and both moments hold 16 bytes.
    parameters = figures["held_reference"] / 16
    assert 0.95 < figures["collective_numbers"] / parameters < 1.1
    assert 0 < figures["collective_seconds"] < figures["step_seconds"]


@pytest.mark.covers(
    "MTX-39: tokenizers (7)", "MTX-39: chunking (3)", "MTX-39: formats (3)"
)
def test_combinations_of_a_kind_have_run_by_themselves() -> None:
    """`lumina matrix --named` ran them; each row says what was seen."""
    formats = ("MTX-30", "MTX-30 tar.xz", "format: JSON lines", "format: CSV")
    for names in (VOCABULARIES, SEVEN, CHUNKS, formats):
        rows = [found(name)[-1] for name in names]
        assert [row["status"] for row in rows] == [VERIFIED] * len(names)


@pytest.mark.covers(
    "MTX-39: long context (3)",
    "MTX-39: edge sizes (5: very small/large models, contexts, batches)",
)
def test_long_rows_and_edges_have_run_by_themselves() -> None:
    edges = [name for name in CELLS if name.startswith("edge: ")]
    assert len(edges) >= 5
    for name in ("MTX-03", "MTX-20", "MTX-21", "MTX-22", *edges):
        assert found(name)[-1]["status"] == VERIFIED, name
    assert all(
        found(name)[-1]["options"]["seq_length"] == 1024
        for name in ("MTX-03", "MTX-20", "MTX-21", "MTX-22")
    )


@pytest.mark.covers("MTX-39: DeepSpeed (3)")
def test_the_three_stages_of_zero_have_run_with_others() -> None:
    """Lumina's own: states divided, gradients too, and weights too."""
    stages = {"MTX-11 ZeRO-1": "zero1", "MTX-12": "zero2", "MTX-13": "fsdp2"}
    for name, way in stages.items():
        row = found(name)[-1]
        assert row["status"] == VERIFIED and row["ranks"] == 2, name
        figures = row["figures"]
        assert way in row["live"] and figures["collectives"] >= 1
        if way == "zero1":  # weights and gradients whole: 8 of 16 bytes, 8 divided
            share = figures["held"] / figures["held_reference"]
            assert 0.6 < share < 1


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("MTX-05 bitsandbytes", "adamw_8bit"), ("MTX-11 DeepSpeed", "zero2"),
        ("MTX-12 DeepSpeed", "zero2"), ("MTX-13 DeepSpeed", "fsdp2"),
    ],
)  # fmt: skip
def test_what_lumina_does_not_call_is_absent_and_names_what_is_there(
    name: str, instead: str
) -> None:
    row = found(name)[-1]
    assert row["status"] == ABSENT and "Lumina does not call" in row["why"]
    twin = name.split()[0]
    assert f"({twin})" in row["why"] and found(twin)[-1]["status"] == VERIFIED
    assert instead in found(twin)[-1]["features"]


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
