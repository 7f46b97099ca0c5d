"""The largest batch that fits: the search, real steps, and what is remembered."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.train import Trainer, batch_search
from lumina.train.batch_search import Measured, largest
from programs import tiny_plan
from stand_ins import stand_in
from tiny_runs import Runs


def looked(limit: int, seen: list[int]):
    def look(size: int) -> Measured:
        seen.append(size)
        return Measured(size, None if size > 4 * limit else 100 * size, 1.0)

    return look


@pytest.mark.covers("TRN-18: binary search")
@pytest.mark.parametrize(
    ("room", "wanted"), [(99, None), (100, 1), (399, 2), (450, 4), (10**6, 32)]
)
def test_the_search_finds_the_largest_that_fits(room: int, wanted: int | None) -> None:
    seen: list[int] = []
    found = largest([1, 2, 4, 8, 16, 32], room, looked(8, seen))
    assert (found.size if found else None) == wanted
    assert len(seen) <= 3 and len(set(seen)) == len(seen)  # a search by halves


@pytest.fixture
def runs(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Runs:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
    return Runs(tmp_path, monkeypatch)


def measured(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Steps that fit up to a number of sequences, without taking them."""
    seen: list[int] = []

    def measure(plan, plugins) -> Measured:
        seen.append(plan.micro_batch_size)
        fits = plan.micro_batch_size <= most
        return Measured(plan.micro_batch_size, 1 if fits else None, 1.0)

    monkeypatch.setattr(batch_search, "measure", measure)
    return seen


OPEN = {"batch_size": None, "grad_accum": None, "global_batch_size": 16}


@pytest.mark.thorough
@pytest.mark.covers("TRN-18: --auto-batch-size", "TRN-19")
def test_the_step_stays_and_the_answer_is_remembered(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = measured(monkeypatch, most=4)
    run = runs.train(auto_batch_size=True, steps=2, **OPEN)
    plan = json.loads((run.folder / "plan.json").read_text())
    assert (plan["micro_batch_size"], plan["grad_accum"]) == (4, 4)
    assert (
        plan["global_batch_size"] == 16
        and "measured" in plan["reasons"]["micro_batch_size"]
    )
    assert [e["kind"] for e in run.events].count("batch_size_measured") == len(seen)
    by_hand = runs.train(**(OPEN | {"batch_size": 4}), steps=2)
    assert run.column("loss") == by_hand.column("loss")

    before = len(seen)
    again = runs.train(auto_batch_size=True, steps=2, **OPEN)
    assert len(seen) == before and again.column("loss") == run.column("loss")
    other = runs.train(auto_batch_size=True, steps=2, hidden_size=64, **OPEN)
    assert len(seen) > before and len(other.rows) == 2
    Trainer(Config(resume=str(run.folder), steps=3)).train()
    assert len(run.rows) == 3
    assert json.loads((run.folder / "plan.json").read_text())["micro_batch_size"] == 4


@pytest.mark.thorough
@pytest.mark.covers("TRN-18: --target-memory-usage 0.85")
def test_a_share_that_nothing_fits_in_is_refused(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, most=0)
    text = runs.refused("E202", auto_batch_size=True, target_memory_usage=0.3, **OPEN)
    assert "more than 30%" in text
    with pytest.raises(LuminaError, match="batch_size is 4"):
        runs.train(auto_batch_size=True, batch_size=4)
    with pytest.raises(LuminaError, match="measures one process"):
        runs.train(auto_batch_size=True, nproc=2, **OPEN)


@pytest.mark.parametrize(
    ("script", "peak"),
    [
        ("kill -9 $$", None),  # as the system ends it for want of memory
        ("echo noise; echo '{\"out_of_memory\": true}'", None),
        ('echo \'{"peak": 5, "seconds": 2, "tokens": 8}\'', 5),
    ],
)
def test_what_a_child_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, peak: int | None
) -> None:
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    child.chmod(0o755)
    monkeypatch.setattr(batch_search, "sys", stand_in(sys, executable=str(child)))
    found = batch_search.measure(tiny_plan(), ())
    assert (found.size, found.peak) == (8, peak)
    assert found.tokens_per_second == (4 if peak else 0)
    child.write_text("#!/bin/sh\ncat > /dev/null\necho boom >&2\nexit 1\n")
    with pytest.raises(LuminaError, match="boom") as caught:
        batch_search.measure(tiny_plan(), ())
    assert caught.value.code == "E003"


@pytest.mark.thorough
@pytest.mark.covers("TRN-18: --optimize searches context and batch", "DIA-18")
def test_real_steps_in_a_process_of_their_own(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of `lumina optimize`, from children that take real steps."""
    config = runs.config(steps=None, **OPEN | {"global_batch_size": 2})
    Path(runs.folder / "run.yaml").write_text(config.to_yaml())
    words = ["--config-file", str(runs.folder / "run.yaml"), "--vocab-size", "300"]
    assert main(["optimize", *words, "--lengths", "16", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["seq_length"] == 16 and row["batch_size"] in (1, 2)
    assert row["tokens_per_second"] > 0
    assert 50 * 2**20 < row["peak_bytes"] < 20 * 2**30
