"""Options of models of several tasks."""

from __future__ import annotations

from typing import Any

import pytest

from option_effects import shows
from tiny_runs import Run, Runs, same


def two_tasks(runs: Runs) -> dict[str, Any]:
    """Options of two tasks of different size; their files lie beside the runs."""
    code = runs.folder / "code.txt"
    code.write_text("<|endoftext|>".join(f"y = x * {n} + 1\n" for n in range(40)))
    tasks = (f"story={runs.data}", f"code={code}")
    return {"tasks": tasks, "train_data": (), "eval_batches": 4, "steps": 4}


@pytest.mark.covers(
    "MOD-36: shared backbone, one linear head per task", "MOD-36: per-task metrics"
)
@shows("tasks")
def heads(runs: Runs) -> None:
    run = runs.train(**two_tasks(runs))
    names = [name for name in run.tensors if name.startswith("objective.heads.")]
    assert len(names) == 2
    assert {"task.story.eval_loss", "task.code.eval_loss"} <= run.rows[-1].keys()


@shows("task_eval_data")
def held_out_files(runs: Runs) -> None:
    other = runs.folder / "other.txt"
    other.write_text("Entirely different words, over and over.\n" * 40)
    split, given = runs.both(
        "task_eval_data", (), (f"code={other}",), **two_tasks(runs)
    )
    ends = [run.rows[-1] for run in (split, given)]
    assert ends[0]["task.code.eval_loss"] != ends[1]["task.code.eval_loss"]


@pytest.mark.covers("MOD-36: task_sampling_strategy proportional or round_robin")
@shows("task_sampling_strategy")
def turns(runs: Runs) -> None:
    by_size, even = runs.both(
        "task_sampling_strategy", "proportional", "round_robin", **two_tasks(runs)
    )

    def share(run: Run) -> float:
        found = run.column("task.code.tokens")
        return float(sum(found) / len(found))

    assert share(by_size) < share(even)


@pytest.mark.covers("MOD-36: task_weights")
@shows("task_weights")
def weights(runs: Runs) -> None:
    start = two_tasks(runs) | {"weight_decay": 0.0}
    start["task_sampling_strategy"] = "round_robin"
    first, last = runs.both("task_weights", (1.0, 0.0), (1.0, 3.0), **start)
    # What does not count leaves its head as it was.
    assert same(first.tensor("heads.1.weight"), _initial(first))
    assert not same(last.tensor("heads.1.weight"), _initial(last))
    assert last.rows[0]["task.story.weight"] == 0.25


def _initial(run: Run) -> Any:
    from lumina.model.build import build_network
    from lumina.model.spec import ModelSpec
    from lumina.state.reader import latest_good, open_checkpoint

    path = latest_good(run.folder)
    assert path is not None
    with open_checkpoint(path) as reader:
        network = build_network(ModelSpec.from_dict(reader.meta.spec), device="meta")
    return network.initial_value("objective.heads.1.weight", 1)


@pytest.mark.covers("MOD-36: balancing")
@shows("task_balancing", "task_balancing_window")
def balance(runs: Runs) -> None:
    start = two_tasks(runs) | {"steps": 8}
    for value, window, moved in (("none", 2, 9), ("dwa", 2, 5), ("dwa", 3, 7)):
        run = runs.train(
            **start,
            task_weights=(0.5, 0.5),
            task_balancing=value,
            task_balancing_window=window,
        )
        found = run.column("task.code.weight")
        changed = [step for step, w in enumerate(found, start=1) if w != 0.5]
        assert changed[:1] == ([moved] if moved < 9 else [])
        assert run.column("task.story.weight")[0] == 0.5
