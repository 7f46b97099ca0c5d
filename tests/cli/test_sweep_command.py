"""`lumina sweep`: the runs, what is repeated, and the table at the end."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.cli.sweep_points import Point, parse_grid, parse_seeds, points, read_file
from lumina.cli.sweep_runs import Outcome
from lumina.cli.sweep_table import shown, summarised
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.state.metrics import read_metrics
from tiny_runs import story
from training import start, wait_until, words

FLAGS = words(
    "--tokenizer-vocab-size 300 --hidden-size 32 --intermediate-size 64 --num-layers 1 "
    "--num-heads 2 --num-kv-heads 1 --seq-length 32 --no-use-moe --device cpu "
    "--global-batch-size 4 --batch-size 4 --precision fp32 --report-samples 0 "
    "--save-every-n-batches 5 --num-workers 1"
)


def test_every_combination_has_every_seed() -> None:
    grid = parse_grid(["optimizer.lr=1e-3,3e-4", "train.weight_decay=0,0.1"])
    assert grid == {"learning_rate": [1e-3, 3e-4], "weight_decay": [0.0, 0.1]}
    found = points(grid, [], parse_seeds("2", 7))
    assert [(dict(p.values), p.seed) for p in found] == [
        ({"learning_rate": rate, "weight_decay": decay}, seed)
        for rate in (1e-3, 3e-4)
        for decay in (0.0, 0.1)
        for seed in (7, 8)
    ]
    assert len({point.name for point in found}) == 8
    # The name of a run depends on what it is, and on nothing beside it.
    alone = points({"weight_decay": [0.1], "learning_rate": [3e-4]}, [], [8])
    assert alone[0].name.rpartition("-")[2] == found[-1].name.rpartition("-")[2]
    assert parse_grid(["freeze=[a, b],[c]"]) == {"freeze": [("a", "b"), ("c",)]}
    assert parse_seeds("5,1", 0) == [5, 1] and parse_seeds(None, 4) == [4]


def test_a_file_lists_combinations(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "grid:\n  lr: [1e-3, 3e-4]\n"
        "list:\n  - {beta1: 0.9, beta2: 0.99}\n  - {beta1: 0.8}\nseeds: [3]\n"
    )
    found = points(*read_file(str(file))[:2], [3])
    assert [p.setting for p in found] == [
        f"learning_rate={rate} {betas}"
        for rate in ("0.001", "0.0003")
        for betas in ("beta1=0.9 beta2=0.99", "beta1=0.8")
    ]
    file.write_text("grids: {}\n")
    with pytest.raises(LuminaError, match="grids"):
        read_file(str(file))


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (["--grid", "lr"], "E005"),
        (["--grid", "nonsense=1,2"], "E004"),
        (["--grid", "model.lr=1,2"], "E004"),
        (["--grid", "seed=1,2"], "E002"),
        (["--grid", "lr=1e-3", "learning_rate=2e-3"], "E002"),
        (["--grid", "lr=1e-3"], "E005"),
        (["--grid", "lr=1e-3,-4"], "E005"),
        (["--seeds", "0"], "E005"),
        (["--grid", "num_heads=2,3"], "E002"),
        (["--seeds", "2", "--run-dir", "x"], "E002"),
    ],
)
def test_what_makes_no_sweep_is_refused(
    asked: list[str], code: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *FLAGS, "--train-data", "x", *asked]) == 2
    assert capsys.readouterr().err.startswith(code)
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_the_spread_over_seeds() -> None:
    def outcome(rate: float, seed: int, loss: float | None, best: float = 1.0):
        metrics = {"eval_loss": loss, "lowest": best, "highest": 9.0, "seconds": 60.0}
        point = Point({"learning_rate": rate}, seed)
        if loss is None:
            return Outcome(point, "failed", "E201 no room", {})
        return Outcome(point, "finished", "", metrics)

    held = [3.0, 4.0, 6.0]
    outcomes = [outcome(0.1, seed, loss) for seed, loss in enumerate(held)]
    outcomes += [outcome(0.2, 0, 2.0, best=1.5), outcome(0.2, 1, None)]
    outcomes += [outcome(0.3, 0, None)]
    rows = summarised(outcomes, "eval_loss", highest=False)
    assert [row["values"]["learning_rate"] for row in rows] == [0.2, 0.1, 0.3]
    assert rows[1]["mean"] == statistics.fmean(held)
    assert rows[1]["deviation"] == statistics.stdev(held)
    assert (rows[1]["lowest"], rows[1]["highest"], rows[1]["best"]) == (3.0, 6.0, 1.0)
    assert (rows[0]["finished"], rows[0]["failed"]) == (1, 1)
    assert rows[0]["deviation"] is None and rows[2]["mean"] is None
    text = shown(rows, "eval_loss")
    assert "learning_rate=0.2" in text and "1/2" in text and "4.3333" in text
    other = summarised(outcomes, "eval_loss", highest=True)
    assert [row["values"]["learning_rate"] for row in other] == [0.1, 0.2, 0.3]


def test_the_runs_of_a_sweep_differ_in_what_is_varied(tmp_path: Path) -> None:
    base = Config(train_data=("a",), seed=3)
    one, two = points({"learning_rate": [1e-3, 3e-4]}, [], [3])
    first, second = (p.config(base, tmp_path) for p in (one, two))
    different = {
        leaf
        for leaf, value in first.to_dict().items()
        if second.to_dict()[leaf] != value
    }
    assert different == {"learning_rate", "run_dir"}


@pytest.mark.thorough
def test_a_killed_sweep_goes_on_and_failures_are_named(
    tmp_path: Path, lumina_cache: Path
) -> None:
    (tmp_path / "story.txt").write_text(story())
    sweep = tmp_path / "sweep"
    command = ["sweep", *FLAGS, "--steps", "20", "--sweep-dir", str(sweep)]
    command += ["--train-data", str(tmp_path / "story.txt"), "--seeds", "2"]
    plain, command = command, [*command, "--grid", "lr=1e-2,1e-4"]
    running = start(command, tmp_path / "first.log")

    def second_has_begun() -> bool:
        begun = [path / "metrics.jsonl" for path in sweep.glob("*seed=43*")]
        return any(f.exists() and len(f.read_bytes()) > 1500 for f in begun)

    assert wait_until(second_has_begun, running)
    os.kill(running.process.pid, signal.SIGKILL)
    running.wait()
    first = next(sweep.glob("learning_rate=0.01-seed=42*"))
    stamp = (first / "metrics.jsonl").stat().st_mtime_ns
    again = start([*command, "--json"], tmp_path / "second.log")
    assert again.wait() == 0, again.output
    assert (first / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert "finished before" in again.output
    lines = list(csv.DictReader((sweep / "runs.csv").open()))
    assert [line["status"] for line in lines] == ["finished"] * 4
    for line in lines:
        rows = read_metrics(sweep / line["run"])
        assert [row["step"] for row in rows] == list(range(1, 21))
        assert float(line["eval_loss"]) == rows[-1]["eval_loss"]
    table = json.loads((sweep / "sweep.json").read_text())["table"]
    assert [row["values"]["learning_rate"] for row in table] == [1e-2, 1e-4]
    broken = plain.copy()
    broken[broken.index("--train-data") + 1] = str(tmp_path / "gone.txt")
    other = start([*broken, "--sweep-dir", str(tmp_path / "other")], tmp_path / "x.log")
    assert other.wait() == 1
    assert "2 of 2 runs failed" in other.output and "E104" in other.output
    changed = start([*command, "--beta1", "0.5"], tmp_path / "y.log")
    assert changed.wait() == 2 and "E002" in changed.output
