"""What an evaluation on tasks found: figures with standard errors, and every answer."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lumina.durable import sync_folder, write_error
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.task import (
    EvaluationTask,
    Example,
    Metric,
    Outcome,
    Values,
    mean,
)

FORMAT = 1
"""Of the file; another number is refused."""

FOLDER = "evaluations"
"""In a run's folder: holds its results."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What giving a file a second name gives on a file system that has no such names."""

DRAWS, SEED = 1000, 1234
"""Of the bootstrap that gives the standard error of what is no mean."""


@dataclass(frozen=True)
class Figure:
    """One metric of one task.

    Attributes:
        value: of all examples.
        standard_error: of the value; None where there is one example.
        examples: that it is of.
        higher_is_better: True or False; None: neither is better.
    """

    value: float
    standard_error: float | None
    examples: int
    higher_is_better: bool | None


@dataclass(frozen=True)
class TaskResult:
    """What came of one task.

    Attributes:
        task: its name.
        words: what it measures.
        figures: by metric, the main one first.
        groups: name of a group -> metric -> its figure; nothing for one group.
        examples: of each: id, group, values by metric, and what the model did.
        files: that were read.
        sha256: of their contents.
        settings: the task's own options, and how it was asked.
        cut: contexts whose beginning was left out to fit.
        ended: answers that ended because the model reads no further.
        skipped: bad records that were left out.
    """

    task: str
    words: str
    figures: dict[str, Figure]
    groups: dict[str, dict[str, Figure]]
    examples: list[dict[str, Any]]
    files: list[str] = field(default_factory=list)
    sha256: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    cut: int = 0
    ended: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class TaskResults:
    """What came of several tasks.

    Attributes:
        model: which weights these are.
        device: where they ran.
        precision: what they computed in.
        tasks: by name, in the order asked for.
    """

    model: str
    device: str
    precision: str
    tasks: dict[str, TaskResult]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; None in place of a number that is not finite."""
        found: dict[str, Any] = _finite({"format": FORMAT, **asdict(self)})
        return found

    def to_text(self) -> str:
        """A table: a line for each metric of each task."""
        rows = [("task", "metric", "value", "stderr", "examples", "better")]
        notes = []
        for one in self.tasks.values():
            for name, figure in one.figures.items():
                rows.append((one.task, name, *_cells(figure)))
            for group, figures in one.groups.items():
                name, figure = next(iter(figures.items()))
                rows.append((f"  {group}", name, *_cells(figure)))
            notes += _notes(one)
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if 2 <= n <= 4 else cell.ljust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([f"model  {self.model}", *lines, *notes])


def _cells(figure: Figure) -> tuple[str, str, str, str]:
    error = figure.standard_error
    better = {True: "higher", False: "lower", None: "-"}[figure.higher_is_better]
    return (
        f"{figure.value:.4f}",
        "-" if error is None else f"{error:.4f}",
        f"{figure.examples:,}",
        better,
    )


def _notes(one: TaskResult) -> list[str]:
    """What was left out, which no figure tells."""
    found = []
    if one.cut:
        found.append(
            f"{one.task}: of {one.cut:,} contexts the beginning was left out, because "
            "the model does not read them whole"
        )
    if one.ended:
        found.append(
            f"{one.task}: {one.ended:,} answers ended because the model reads no "
            "further"
        )
    if one.skipped:
        found.append(f"{one.task}: {one.skipped:,} bad records were left out")
    return found


def figures_of(
    metrics: Sequence[Metric], outcomes: Sequence[Outcome]
) -> dict[str, Figure]:
    """Each metric of some examples, where one applies to any of them.

    Args:
        metrics: of the task.
        outcomes: one for each example.
    """
    found = {}
    for metric in metrics:
        values = values_of(metric.name, [one.values for one in outcomes])
        if len(values):
            found[metric.name] = Figure(
                metric.combine(values),
                standard_error(metric, values),
                len(values),
                metric.higher_is_better,
            )
    return found


def values_of(name: str, each: Sequence[Mapping[str, Any]]) -> Values:
    """[examples, numbers] float64 of the examples that a metric applies to."""
    rows = [np.atleast_1d(one[name]) for one in each if name in one]
    width = max((len(row) for row in rows), default=1)
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def standard_error(metric: Metric, values: Values) -> float | None:
    """Of a mean s/sqrt(n); of anything else that of 1,000 draws with replacement.

    Args:
        metric: of the values.
        values: [examples, numbers].

    Returns:
        None for fewer than two examples.
    """
    count = len(values)
    if count < 2:
        return None
    if metric.combine is mean:
        return float(values[:, 0].std(ddof=1) / math.sqrt(count))
    drawn = np.random.default_rng(SEED).integers(count, size=(DRAWS, count))
    found = [metric.combine(values[places]) for places in drawn]
    return float(np.std(found, ddof=1))


def result_of(
    task: EvaluationTask,
    examples: Sequence[Example],
    outcomes: Sequence[Outcome],
    **more: Any,
) -> TaskResult:
    """The result of a task.

    Args:
        task: that was asked.
        examples: the questions.
        outcomes: one for each.
        more: further attributes of `TaskResult`.
    """
    groups: dict[str, list[Outcome]] = {}
    for example, outcome in zip(examples, outcomes, strict=True):
        groups.setdefault(example.group, []).append(outcome)
    apart = groups if len(groups) > 1 else {}
    return TaskResult(
        task.name,
        task.words,
        figures_of(task.metrics, outcomes),
        {name: figures_of(task.metrics, some) for name, some in sorted(apart.items())},
        [
            {
                "id": example.id,
                "group": example.group,
                "values": dict(outcome.values),
                **outcome.details,
            }
            for example, outcome in zip(examples, outcomes, strict=True)
        ],
        **more,
    )


def write_results(results: TaskResults, path: Path) -> None:
    """Write a new file of results, which appears whole or not at all.

    Args:
        results: what is written.
        path: of the file, which must not exist.

    Raises:
        LuminaError: E005 where it exists; E104, E106 or E204 where it cannot be
            written.
    """
    content = json.dumps(results.to_dict(), indent=1, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        try:
            _name_anew(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileExistsError:
        raise _is_there(path) from None
    except OSError as error:
        raise write_error(error, path) from error


def check_new_file(path: Path) -> None:
    """Refuse what `write_results` would refuse, before there are results to lose.

    Raises:
        LuminaError: E005 where there is a file; E104 or E106 where none can be.
    """
    if path.exists():
        raise _is_there(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise LuminaError("E104", f"there is no folder {folder}", "make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LuminaError(
            "E106", f"{folder} may not be written", "name a file in another folder"
        )


def _is_there(path: Path) -> LuminaError:
    return LuminaError(
        "E005",
        f"{path} is there already, and nothing is overwritten",
        "name a new file",
    )


def _name_anew(written: Path, path: Path) -> None:
    """Give a file that is written a name that no file has.

    Raises:
        FileExistsError: a file has it.
    """
    try:
        os.link(written, path)  # fails where there is a file, unlike a rename
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with open(path, "xb"):  # the name is taken: the file follows
            pass
        os.replace(written, path)


def write_beside(results: TaskResults, run: Path) -> Path:
    """Write results into a run's folder, under the next free number.

    Args:
        results: what is written.
        run: the folder of the run.

    Returns:
        The file: RUN/evaluations/0001.json, or a higher number.
    """
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        taken = [int(f.stem) for f in folder.glob("*.json") if f.stem.isdigit()]
    except OSError as error:
        raise write_error(error, folder) from error
    number = max(taken, default=0) + 1
    while True:
        path = folder / f"{number:04d}.json"
        try:
            write_results(results, path)
        except LuminaError as error:
            if error.code != "E005":
                raise
            number += 1  # another process was faster
        else:
            return path


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
