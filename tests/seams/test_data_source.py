"""A source of data from outside the package: it trains, is killed, resumes, is told of.

The endless source is the one of docs/extending.md; the mixture stands in
`toy_data_source.py`.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumina.config import Config
from lumina.data import kinds
from lumina.data.kind import Request
from lumina.data.kinds import chosen_kind
from lumina.model.registry import load_plugins
from lumina.observe.metric_table import UNREPEATABLE
from tiny_runs import Runs, same
from training import Running, start, wait_until

MIXTURE = Path(__file__).parent / "toy_data_source.py"
PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a run on the page's own example."""
    found = re.search(r"```python\n(# arithmetic\.py\n.*?)```", PAGE, re.DOTALL)
    assert found is not None
    # Each test has a file of its own, which registers the name anew.
    monkeypatch.delitem(kinds._REGISTERED, "arithmetic", raising=False)
    file = tmp_path / "arithmetic.py"
    file.write_text(found[1])
    return {
        "plugins": (str(file),),
        "data_kind": "arithmetic",
        "train_data": (),
        "tokenizer_vocab_size": None,
    }


def options(config: Config) -> list[str]:
    """A configuration as options of the command."""
    words = []
    for leaf, source in config.provenance.items():
        value = config.get(leaf)
        if source.kind != "python" or value is None or value == ():
            continue
        words.append("--" + leaf.replace("_", "-"))
        words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return words


def command(log: Path, *words: str, **environment: str) -> Running:
    return start(["train", *words], log, **environment)


def finished(running: Running) -> None:
    assert running.wait() == 0, running.output


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without what no two runs have alike."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: x for key, x in row.items() if key not in UNREPEATABLE}
        for row in map(json.loads, lines)
    ]


def rows_read(file: Path) -> list[tuple[int, str]]:
    """(place in the run, content) of every row that some process read."""
    return [
        (begin + first + n, json.dumps(row))
        for begin, first, rows in map(json.loads, file.read_text().splitlines())
        for n, row in enumerate(rows)
    ]


@pytest.mark.faults
def test_a_killed_run_goes_on_to_the_bit_and_two_processes_read_every_row_once(
    runs: Runs, tmp_path: Path
) -> None:
    mixed = {
        "plugins": (str(MIXTURE),),
        "data_kind": "toy_mixture",
        "data_options": ("share=0.4",),
        "steps": 8,
        "batch_size": 2,
        "save_every_n_batches": 2,
        "report_samples": 0,
    }
    whole, config = runs.config(**mixed), runs.config(**mixed)
    log = tmp_path / "log"
    finished(command(log, *options(whole)))
    folder = Path(str(config.run.run_dir))

    process = command(log, *options(config), TOY_STOP=str(7 * 4))
    latest = folder / "checkpoints" / "LATEST"
    assert wait_until(
        lambda: latest.exists() and latest.read_text().strip() >= "step-00000004",
        process,
    )
    process.kill()
    killed = tmp_path / "killed"
    shutil.copytree(folder, killed, symlinks=True)

    without = command(tmp_path / "without", "--resume", str(folder))
    assert without.wait() == 2 and "hold toy_mixture" in without.output
    alone = ["--plugins", str(MIXTURE), "--resume", str(folder)]
    finished(command(log, *alone, TOY_ROWS=str(tmp_path / "one")))
    expected = metrics(Path(str(whole.run.run_dir)))
    assert metrics(folder) == expected and expected[-1]["epoch"] is None

    two = ["--plugins", str(MIXTURE), "--resume", str(killed), "--nproc", "2"]
    two += ["--global-batch-size", "4"]
    finished(command(log, *two, TOY_ROWS=str(tmp_path / "two")))
    first = min(place for place, _ in rows_read(tmp_path / "one"))
    assert first % 4 == 0 and first >= 4 * 4
    by_one, by_two = (
        sorted(row for row in rows_read(tmp_path / name) if row[0] < 8 * 4)
        for name in ("one", "two")
    )
    assert by_one == by_two
    assert [place for place, _ in by_two] == list(range(first, 8 * 4))


def test_the_resumed_weights_are_those_of_a_run_without_a_break(
    runs: Runs, endless: dict[str, Any]
) -> None:
    whole = runs.train(**endless, steps=6)
    half = runs.train(**endless, steps=3, save_every_n_batches=3)
    assert half.cursor["rows"] == 12 and half.cursor["left"]
    again = runs.train(**endless, steps=6, run_dir=str(half.folder), auto_resume=True)
    assert again.cursor == whole.cursor
    assert all(same(again.tensors[name], x) for name, x in whole.tensors.items())


def test_the_plan_the_banner_and_the_report_name_it(
    runs: Runs, endless: dict[str, Any]
) -> None:
    run = runs.train(**endless, data_options=("digits=3",))
    plan = json.loads((run.folder / "plan.json").read_text())
    assert "arithmetic has no known number of rows" in plan["reasons"]["epochs"]
    assert "data       of kind arithmetic, digits 3, rows unknown" in run.printed
    report = (run.folder / "report.html").read_text()
    assert "data of kind arithmetic" in report and "length unknown" in report
    assert {row["epoch"] for row in run.rows} == {None}
    assert run.first_loss != runs.train(**endless).first_loss


def test_it_is_refused_by_name(runs: Runs, endless: dict[str, Any]) -> None:
    for limit in ({"steps": None}, {"epochs": 2.0}):
        told = runs.refused("E002", **endless | limit)
        assert "arithmetic has no known number of rows" in told
    puzzles = {"use_hrm": True, "seq_length": 81, "num_kv_heads": 2}
    told = runs.refused("E002", **endless | puzzles)
    assert "arithmetic gives text" in told and "learns from puzzles" in told
    tasks = (f"a={runs.data}", f"b={runs.data}")
    told = runs.refused("E002", **endless | {"tasks": tasks})
    assert "arithmetic gives text" in told and "learns from tasks" in told
    assert "digit " in runs.refused("E005", **endless, data_options=("digit =3",))
    assert "digits=x" in runs.refused("E005", **endless, data_options=("digits=x",))
    assert "arithmetics" in runs.refused(
        "E005", **endless | {"data_kind": "arithmetics"}
    )
    assert "sudoku" in runs.refused("E002", data_kind="sudoku")


def test_a_mixture_is_a_pure_function_of_its_cursor(runs: Runs) -> None:
    load_plugins((str(MIXTURE),))
    config = runs.config(plugins=(str(MIXTURE),), data_kind="toy_mixture")
    kind = chosen_kind(config)
    sequence = kind.prepare(Request(config, options=kind.options)).rows(config).sequence
    rows: list[Any] = []
    cursor = sequence.start
    chance = np.random.default_rng(0)
    while len(rows) < 60:
        taken = sequence.take(cursor, int(chance.integers(1, 6)))
        assert sequence.rows_before(cursor) == len(rows)
        rows += taken.contents
        cursor = json.loads(json.dumps(taken.cursor))
    whole = sequence.take(sequence.start, len(rows))
    assert json.dumps(whole.contents) == json.dumps(rows)
    assert json.loads(json.dumps(whole.cursor)) == cursor
    pages = [row[1] for number, row in rows if number == 0]
    assert len(set(map(json.dumps, pages))) == len(pages)
    assert torch.tensor([row for number, row in rows if number == 1]).shape[1] == 33
