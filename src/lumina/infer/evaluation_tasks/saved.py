"""Results as they are read again: from their files, or from what a run measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.results import (
    FORMAT,
    Figure,
    TaskResult,
    TaskResults,
)
from lumina.state.metrics import read_metrics
from lumina.state.run_directory import RunDirectory

MOST_BYTES = 4 * 2**30
"""A larger file of results is refused."""

HELD_OUT = "held_out"
"""The task of figures that a run itself measured on its held-out text."""


def read_results(path: Path) -> TaskResults:
    """The results of a file that `lumina evaluate --tasks` wrote.

    Raises:
        LuminaError: E104 where it is not there, E101 where it is something else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"it is of the format {found['format']!r}, not {FORMAT}")
        tasks = {name: _task(one) for name, one in found["tasks"].items()}
        return TaskResults(
            str(found["model"]), str(found["device"]), str(found["precision"]), tasks
        )
    except OSError as error:
        raise LuminaError(
            "E104",
            f"{path} cannot be read ({error.strerror})",
            "name a file that `lumina evaluate --output` wrote",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise LuminaError(
            "E101",
            f"{path} is no file of results ({said})",
            "`lumina evaluate RUN --tasks ... --output FILE` writes one",
        ) from None


def _task(one: Mapping[str, Any]) -> TaskResult:
    fields = {
        name: one[name]
        for name in ("files", "sha256", "settings", "cut", "ended", "skipped")
    }
    groups = {
        group: {name: Figure(**figure) for name, figure in figures.items()}
        for group, figures in one["groups"].items()
    }
    examples = [
        {**example, "values": dict(example["values"]), "id": str(example["id"])}
        for example in one["examples"]
    ]
    return TaskResult(
        str(one["task"]),
        str(one["words"]),
        {name: Figure(**figure) for name, figure in one["figures"].items()},
        groups,
        examples,
        **fields,
    )


def figures_of_run(run: Path) -> TaskResults:
    """The last evaluation that a run made while it trained, as figures of one task.

    Args:
        run: its folder.

    Raises:
        LuminaError: E304 where there is no run, E105 where it was never evaluated.
    """
    metrics = RunDirectory(run).metrics
    if not metrics.is_file():
        raise LuminaError(
            "E304",
            f"there is no run {run}",
            "name folders of runs, files of results, or models with --tasks",
        )
    rows = [r for r in read_metrics(metrics) if r.get("eval_loss") is not None]
    if not rows:
        raise LuminaError(
            "E105",
            f"{run} has no evaluation",
            "train with --eval-every-n-batches, or compare on --tasks",
        )
    figures = {
        name: Figure(float(value), None, 1, higher_is_better(name))
        for name, value in rows[-1].items()
        if "eval_" in name and isinstance(value, int | float)
    }
    order = ["eval_loss", *(name for name in figures if name != "eval_loss")]
    words = "the last evaluation of a run, on its held-out text"
    task = TaskResult(HELD_OUT, words, {name: figures[name] for name in order}, {}, [])
    return TaskResults(str(run), "", "", {HELD_OUT: task})


def higher_is_better(name: str) -> bool | None:
    """Of a figure of a run's evaluation; None where neither is known to be better."""
    if name.endswith("loss"):
        return False
    return True if name.endswith("accuracy") else None
