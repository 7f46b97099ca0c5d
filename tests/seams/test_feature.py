"""A feature from outside the package: the file of docs/extending.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lumina
from forked import run_forked
from import_path import finding
from lumina import Trainer
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.guard.__main__ import main as guard
from tiny_runs import Runs
from training import (
    PATIENCE,
    Trainings,
    assert_same_run,
    reached,
    wait_until,
    words,
)

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
FOUND = re.search(r"```python\n(# tiled\.py\n.*?)```", PAGE, re.DOTALL)
TEXT = FOUND[1] if FOUND else ""
SMALL = words("--steps 9 --precision fp32 --save-every-n-batches 2 --no-use-moe")


@pytest.fixture(scope="module")
def trainings(
    tmp_path_factory: pytest.TempPathFactory, lumina_cache: Path, tiny_corpus: Path
) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("runs"), tiny_corpus)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("plugins") / "tiled.py"
    file.write_text(TEXT)
    return str(file)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test registers in this process is gone after it."""
    from lumina.model import registry

    before, loaded = dict(FEATURES), dict(registry._LOADED)
    yield
    FEATURES.clear()
    FEATURES.update(before)
    registry._LOADED.clear()
    registry._LOADED.update(loaded)


def one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def two_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the feature needs two cores")


def _plan(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "plan.json").read_text()))


@pytest.mark.thorough
def test_it_trains_is_killed_and_goes_on_to_the_bit(
    trainings: Trainings, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    two_cores()
    flags = [*SMALL, "--plugins", plugin, "--features", "tiled"]
    whole = trainings.train("whole", *flags)
    running = trainings.start("killed", *flags, "--auto-resume", HOLD_AFTER="5")
    folder = trainings.folder / "killed"
    assert wait_until(reached(folder, 5), running)
    running.kill()
    # Code runs only when it is named: the run does not bring its plug-in along.
    capsys.readouterr()
    assert main(["train", "--resume", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "E002" in told and "tiled" in told and f"--plugins {plugin}" in told
    found = trainings.train("killed", *flags, "--auto-resume")
    assert_same_run(found, whole)
    plan = _plan(whole)
    assert plan["features"] == ["tiled"]
    assert plan["reasons"]["features.tiled"] == "flag"
    plain = trainings.train("plain", *SMALL)
    less = _plan(plain)["memory"]["activations"] - plan["memory"]["activations"]
    assert less == 2 * 3 * 4 * 32 * 64 * 4  # layers, values, rows, tokens, width, bytes
    report = (whole / "report.html").read_text()
    assert "features.tiled" in report
    assert "features.tiled" not in (plain / "report.html").read_text()


def test_it_is_built_into_every_block(trainings: Trainings, plugin: str) -> None:
    """Values are made again in tiles: the same function, in more operations."""
    two_cores()
    from lumina.assemble.assemble import assemble
    from lumina.config import Config
    from lumina.model.registry import load_plugins
    from machines import cpu, plan_for

    load_plugins([plugin])
    shape = {"vocab_size": 64, "steps": 1, "seq_length": 32, "global_batch_size": 4}
    plan = plan_for(Config(**shape, features=("tiled",)), cpu())
    program, plain = assemble(plan), assemble(plan.replace(features=()))
    for block in program.network.backbone.blocks:
        assert "tiled" in block.feedforward.forward.__qualname__
    assert list(program.network.state_dict()) == list(plain.network.state_dict())


@pytest.mark.thorough
def test_it_chooses_itself_and_falls_back_with_the_reason(
    trainings: Trainings, plugin: str
) -> None:
    two_cores()
    flags = [*SMALL, "--steps", "3", "--plugins", plugin]
    short = _plan(trainings.train("short", *flags))
    assert short["features"] == []
    assert short["reasons"]["features.tiled"] == "rows of 32 tokens"
    flags += ["--seq-length", "64"]
    long = _plan(trainings.train("long", *flags))
    assert long["features"] == ["tiled"]
    off = _plan(trainings.train("off", *flags, "--no-features", "tiled"))
    assert (off["features"], off["reasons"]["features.tiled"]) == ([], "flag")

    running = trainings.start("weak", *flags, before=one_core)
    assert running.wait() == 0, running.output
    weak = _plan(trainings.folder / "weak")
    assert weak["features"] == []
    assert weak["reasons"]["features.tiled"] == "needs two cores"
    assert "tiled is left out: it needs two cores" in " ".join(running.output.split())
    report = (trainings.folder / "weak" / "report.html").read_text()
    assert "features.tiled" in report and "needs two cores" in report

    routed = _plan(trainings.train("routed", *flags, "--use-moe"))
    assert "mixture_of_experts" in routed["reasons"]["features.tiled"]


def test_it_is_refused_by_name_where_it_cannot_be_used(
    trainings: Trainings, plugin: str
) -> None:
    flags = [*SMALL, "--plugins", plugin, "--features", "tiled"]
    running = trainings.start("no-core", *flags, before=one_core)
    assert running.wait() == 2, running.output
    assert "E003" in running.output and "tiled needs two cores" in running.output
    assert "--no-features tiled" in running.output
    running = trainings.start("experts", *flags, "--use-moe")
    assert running.wait() == 2, running.output
    assert "E002" in running.output
    assert "feature tiled and use_moe do not go together" in running.output
    assert "leave feature tiled out, or use_moe" in running.output
    running = trainings.start("unknown", *SMALL, "--features", "tiled")
    assert running.wait() == 2, running.output
    assert "'tiled' is not a feature" in running.output


@pytest.mark.thorough
def test_a_running_job_switches_it_and_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: str, lumina_cache: Path
) -> None:
    """Assembled again with it; what needs another start is refused by name."""
    two_cores()
    runs = Runs(tmp_path, monkeypatch)
    refused: list[str] = []

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == 2 and not refused:
            trainer.controls.request("tiled", True, "to see what it does")
            for name in ("use_moe", "deterministic", "ddp", "expert_dropout_"):
                with pytest.raises(LuminaError) as caught:
                    trainer.controls.request(name, True, "to be refused")
                refused.append(str(caught.value))

    options = {"plugins": (plugin,), "steps": 8, "save_every_n_batches": 4}
    config = runs.config(**options)
    trainer = Trainer(config, on_step=on_step)
    run = trainer.train().run_dir
    assert trainer.plan.features == ("tiled",)
    (entry,) = trainer.controls.changes
    assert (entry.name, entry.old, entry.value) == ("tiled", False, True)
    assert entry.outcome == "applied" and entry.seconds is not None
    names = ("mixture_of_experts", "deterministic", "ddp")
    for told, name in zip(refused, names, strict=False):
        assert told.startswith("E002") and f"{name} cannot be switched" in told
    assert refused[3].startswith("E004")
    # The resumed run has it, and ends as the whole one did.
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step-00000008")
    (again / "checkpoints" / "LATEST").write_text("step-00000004")
    resumed = Trainer(config.replace(run_dir=str(again), auto_resume=True))
    resumed.train()
    assert resumed.plan.features == ("tiled",)
    assert_same_run(again, run)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lambda text: text, "", id="works"),
        pytest.param(
            lambda text: text + "\n", "", id="works, fresh", marks=pytest.mark.thorough
        ),
        *(
            pytest.param(
                lambda text, instead=instead: text.replace("same = ", instead),
                problem,
                id=name,
                marks=pytest.mark.thorough,
            )
            for name, instead, problem in (
                ("fails", "same = not ", "tiles give other numbers"),
                ("raises", "1 / 0; same = ", "ZeroDivisionError"),
                (
                    "crashes",
                    "import os; os.kill(os.getpid(), 9); same = ",
                    "killed by signal 9",
                ),
                (
                    "hangs",
                    "import time; time.sleep(600); same = ",
                    "did not end within",
                ),
            )
        ),
    ],
)
def test_its_pretest_runs_by_name_in_a_process_of_its_own(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[str], str],
    problem: str,
) -> None:
    two_cores()
    if change(TEXT) == TEXT:
        monkeypatch.setattr(subprocess, "run", run_forked)
    file = tmp_path / "tiled.py"
    file.write_text(change(TEXT))
    timeout = "2" if "sleep" in file.read_text() else str(int(PATIENCE))
    words = ["tiled", "--plugins", str(file), "--timeout", timeout, "--device", "cpu"]
    code = guard(words)  # what `python -m lumina.guard` calls
    told = json.loads(capsys.readouterr().out)
    assert (code, told["passed"]) == (int(bool(problem)), not problem)
    assert told["feature"] == "tiled"
    assert problem in told["problem"] and bool(problem) == bool(told["problem"])


@pytest.mark.thorough
def test_a_run_does_without_what_fails_its_pretest(
    trainings: Trainings, tmp_path: Path
) -> None:
    two_cores()
    file = tmp_path / "tiled.py"
    file.write_text(TEXT.replace("same = ", "same = not "))
    flags = [*SMALL, "--steps", "3", "--plugins", str(file), "--seq-length", "64"]
    plan = _plan(trainings.train("broken", *flags))
    assert plan["features"] == []
    assert "tiles give other numbers" in plan["reasons"]["features.tiled"]
    running = trainings.start("named", *flags, "--features", "tiled")
    assert running.wait() == 2, running.output
    assert "E003" in running.output and "fails its pretest" in running.output


def test_lumina_features_lists_it(
    plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    two_cores()
    here = ["--plugins", plugin, "--device", "cpu", "--no-use-moe"]
    assert main(["features", "tiled", *here, "--seq-length", "32"]) == 0
    printed = capsys.readouterr().out
    assert "here      off (auto): rows of 32 tokens" in printed
    assert "excludes  mixture_of_experts: experts see all tokens" in printed
    assert "--features tiled (left out by --no-features tiled)" in printed
    for more, state, auto, why in (
        (["--seq-length", "64"], "on", True, "rows of 64 tokens"),
        (["--features", "tiled"], "on", False, "flag"),
        (["--no-features", "tiled"], "off", False, "flag"),
    ):
        assert main(["features", "--json", *here, *more]) == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        row = rows["tiled"]
        assert (row["state"], row["auto"], row["reason"]) == (state, auto, why)
        assert rows.keys() == FEATURES.keys()


@pytest.mark.thorough
def test_the_rest_works_without_the_files_of_some_features(tmp_path: Path) -> None:
    """A feature's file is all there is of it: no table names it."""
    package = tmp_path / "lumina"
    shutil.copytree(Path(lumina.__file__).parent, package)
    declared = package / "features" / "declared"
    for name in ("depth", "recursion", "dropout", "average"):
        (declared / f"{name}.py").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "lumina", "features", "--device", "cpu"],
        capture_output=True,
        text=True,
        env=finding(tmp_path),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    listed = {line.partition(":")[0] for line in done.stdout.splitlines()}
    absent = {"mixture_of_depths", "mixture_of_recursions", "shared_keys", "dropout",
              "swa", "lookahead",
              "ema"}  # fmt: skip
    assert not absent & listed
    assert set(FEATURES) - absent <= listed
