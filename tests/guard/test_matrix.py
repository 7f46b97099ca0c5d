"""The validation matrix comes from the logs of pretests, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.guard import pretest_logs
from lumina.guard.identity import identity
from lumina.guard.judge import Verdict
from lumina.guard.matrix import column_of, matrix
from lumina.plan.environment import Environment
from machines import cpu, gpu
from programs import tiny_plan


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))


def enter(
    lever: str, parameters: int, good: bool, machine: Environment, moe: bool = False
) -> None:
    plan = tiny_plan(moe, parameters=parameters)
    problems = () if good else ("it is 0.9x as fast",)
    verdict = Verdict(lever, good, problems, 0.0)
    of = identity(plan, lever, machine)
    pretest_logs.log(plan, verdict, of, cached=False, why="for a test")


@pytest.mark.parametrize(
    ("size", "column"),
    [("124M", "100M"), ("1.3B", "1B"), ("450M", "500M"), ("7B", "7B"), ("85K", "85K")],
)
def test_a_model_stands_in_the_column_of_its_size(size: str, column: str) -> None:
    assert column_of(size) == column


@pytest.mark.covers("KRN-07")
def test_it_says_what_passed_failed_was_not_tried_or_cannot_be() -> None:
    here, there = cpu(compiler=True), gpu()
    enter("compile", 124_000_000, False, here)
    enter("compile", 124_000_000, True, here)
    enter("compile", 1_300_000_000, False, here, moe=True)
    enter("flash_attention", 124_000_000, True, there)
    found = {
        (one.device, one.lever, one.architecture, one.size): one for one in matrix(here)
    }
    mine = here.device_name
    assert found[mine, "compile", "dense", "100M"].status == "PASS"
    assert found[mine, "compile", "moe", "1B"].status == "FAIL"
    assert "0.9x" in found[mine, "compile", "moe", "1B"].text
    assert found[mine, "compile", "dense", "250M"].status == "EXPERIMENTAL"
    assert found[mine, "fp8", "dense", "1B"].status == "N/A"
    assert found[there.device_name, "flash_attention", "dense", "100M"].date
    assert (there.device_name, "flash_attention", "dense", "1B") not in found


@pytest.mark.covers("KRN-07")
def test_the_command_writes_it_as_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lumina.plan.environment import probe

    enter("compile", 124_000_000, True, probe("cpu"))
    out = tmp_path / "matrix.md"
    assert main(["pretests", "matrix", "--device", "cpu", "--out", str(out)]) == 0
    text = out.read_text()
    assert "| Optimisation | Model | 100M | 250M | 500M | 1B |" in text
    line = next(one for one in text.splitlines() if one.startswith("| compile"))
    assert line.split(" | ")[2].startswith("PASS (2") and "EXPERIMENTAL" in line
    capsys.readouterr()
    assert main(["pretests", "matrix", "--device", "cpu", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    statuses = {one["status"] for one in cells}
    assert statuses == {"PASS", "EXPERIMENTAL", "N/A"}
