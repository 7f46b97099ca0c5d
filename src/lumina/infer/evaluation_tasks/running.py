"""Ask a model the questions of several tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lumina.data.data_events import OnEvent
from lumina.data.skipping import Skipped
from lumina.errors import LuminaError
from lumina.infer.evaluated_model import open_evaluated
from lumina.infer.evaluation_tasks.records import Questions, read_questions
from lumina.infer.evaluation_tasks.results import TaskResult, TaskResults, result_of
from lumina.infer.evaluation_tasks.subject import Counts, Subject, TooLong
from lumina.infer.evaluation_tasks.task import (
    EvaluationTask,
    Shots,
    chosen_task,
)
from lumina.infer.load import Model, Precision
from lumina.model.host_table import device_of
from lumina.state.weights import Which

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Ready:
    """A task with the questions of its files, before any model is read."""

    task: EvaluationTask
    questions: Questions
    shots: Shots = field(default_factory=Shots)


def prepare_tasks(
    tasks: Mapping[str, Files],
    *,
    shots: int = 0,
    shots_data: Mapping[str, Files] | None = None,
    limit: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    data_errors: Literal["fatal", "skip"] = "fatal",
    on_event: OnEvent | None = None,
) -> list[Ready]:
    """Read the questions of tasks; nothing of a model is needed for it.

    Args:
        tasks: name of a task -> its files, folders or patterns.
        shots: solved examples before each question.
        shots_data: name of a task -> files that they are taken from, the first ones of
            a question's group.
        limit: questions of each task, the first ones; None: all.
        options: name of a task -> its own options.
        data_errors: stop at a bad record, or leave it out.
        on_event: called for what was left out.

    Raises:
        LuminaError: E005 for an unknown task, option or value, and for solved examples
            that there are not; E101 to E106 for the files.
    """
    given, own = dict(shots_data or {}), dict(options or {})
    if not tasks:
        raise LuminaError(
            "E005", "no task is named", "name tasks with their files, as mmlu=FILE"
        )
    for name in (*given, *own):
        if name not in tasks:
            raise LuminaError(
                "E005",
                f"{name} is none of the tasks {', '.join(tasks)}",
                "name options and solved examples of tasks that are evaluated",
            )
    if shots < 0 or (limit is not None and limit < 1):
        what, value = ("shots", shots) if shots < 0 else ("limit", limit)
        raise LuminaError("E005", f"{what} is {value}", "give a number from 1 on")
    if given and not shots:
        raise LuminaError(
            "E002",
            "solved examples are named and none is to be shown",
            "add --shots 5, or leave --shots-data out",
        )
    found = []
    for name, files in tasks.items():
        task = chosen_task(name)(checked_options(name, own.get(name, {})))
        report = _skips(on_event)
        questions = read_questions(
            task, _paths(files), limit=limit, errors=data_errors, on_skip=report
        )
        found.append(
            Ready(task, questions, _shots(task, shots, given.get(name), data_errors))
        )
    return found


def _shots(
    task: EvaluationTask,
    count: int,
    files: Files | None,
    errors: Literal["fatal", "skip"],
) -> Shots:
    """The solved examples of a task."""
    if not count:
        return Shots()
    if not task.takes_shots:
        if files is None:
            return Shots()
        raise LuminaError(
            "E002",
            f"{task.name} shows no solved examples",
            f"leave --shots-data {task.name}=... out",
        )
    if files is None:
        raise LuminaError(
            "E005",
            f"no file is named to take the {count} solved examples of {task.name} from",
            f"name one with other questions: --shots-data {task.name}=FILE",
        )
    solved = read_questions(task, _paths(files), errors=errors).examples
    if len(solved) < count:
        raise LuminaError(
            "E005",
            f"{count} solved examples are to be shown, and the file for {task.name} "
            f"has {len(solved)}",
            f"give --shots {len(solved)}, or a longer file",
        )
    return Shots(solved, count)


def checked_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A task's own options, each of the type that the task declares.

    Args:
        name: of the task.
        given: values, or texts that spell them.

    Raises:
        LuminaError: E004 for an option that it has not, E005 for a value out of range.
    """
    known = chosen_task(name).options
    found: dict[str, Any] = {}
    for option, value in given.items():
        if option not in known:
            there = ", ".join(known) or "none"
            raise LuminaError(
                "E004",
                f"{option} is no option of the task {name}",
                f"its options: {there}",
            )
        kind = type(known[option].default)
        try:
            ready = _typed(kind, value)
        except ValueError:
            raise LuminaError(
                "E005",
                f"{name}.{option} is {value!r}, not of the type {kind.__name__}",
                f"such as {known[option].default!r}",
            ) from None
        if (limits := known[option].limits(ready)) is not None:
            raise LuminaError("E005", f"{name}.{option} is {value!r}", f"give {limits}")
        found[option] = ready
    return found


def _typed(kind: type[Any], value: Any) -> Any:
    """The value as a bool, int, float or text; ValueError where it is none."""
    if kind is bool and isinstance(value, str):
        spelled = {"true": True, "false": False}
        if value.lower() not in spelled:
            raise ValueError
        return spelled[value.lower()]
    if kind is str:
        return os.fspath(value)
    if kind is not bool and isinstance(value, bool):
        raise ValueError
    if kind is int and isinstance(value, float):
        raise ValueError
    return kind(value)


def _skips(on_event: OnEvent | None) -> Callable[[Skipped], None] | None:
    if on_event is None:
        return None

    def report(one: Skipped) -> None:
        place = "" if one.line is None else f", line {one.line}"
        message = f"left out {one.source}{place}: {one.reason}"
        on_event("data_skipped", "warning", one.code, message)

    return report


def _paths(files: Files) -> list[str]:
    several = [files] if isinstance(files, str | os.PathLike) else files
    return [os.fspath(one) for one in several]


def ask(ready: Sequence[Ready], model: Subject, named: str) -> TaskResults:
    """Ask a model the questions of all tasks.

    Args:
        ready: the tasks with their questions.
        model: to ask.
        named: which weights these are.
    """
    found: dict[str, TaskResult] = {}
    for one in ready:
        model.counts = Counts()
        outcomes = one.task.measure(one.questions.examples, model, one.shots)
        found[one.task.name] = result_of(
            one.task,
            one.questions.examples,
            outcomes,
            files=one.questions.files,
            sha256=one.questions.sha256,
            settings={
                **one.task.settings,
                "shots": one.shots.count,
                "too_long": model.too_long,
                "chat": model.chat,
            },
            cut=model.counts.cut,
            ended=model.counts.ended,
            skipped=one.questions.skipped,
        )
    return TaskResults(
        named,
        str(device_of(model.network)),
        str(model.network.backbone.compute_dtype).removeprefix("torch."),
        found,
    )


def evaluate_tasks(
    run: Model,
    tasks: Mapping[str, Files],
    *,
    device: str = "auto",
    precision: Precision = "auto",
    which: Which = "latest",
    ema: bool = False,
    task: str | None = None,
    adapters: Sequence[str] = (),
    batch_size: int | None = None,
    too_long: TooLong = "refuse",
    chat: bool = False,
    on_event: OnEvent | None = None,
    on_rows: Callable[[int, int], None] | None = None,
    **reading: Any,
) -> TaskResults:
    """How a model does on tasks whose questions are in local files.

    Args:
        run: a run, a checkpoint or an exported folder, or what `lumina.load` returns.
        tasks: name of a task -> its files, folders or patterns.
        device: as of `lumina.load`, like the next ones.
        precision: see `lumina.evaluate`.
        which: of a run, the newest good checkpoint or the best evaluated one.
        ema: the moving average of the weights.
        task: of a model of several tasks, the head to use.
        adapters: folders of adapters that are added to the model.
        batch_size: rows side by side; no result depends on it.
        too_long: refuse a context that the model does not read whole, or cut its
            beginning off and count it.
        chat: ask in the form of a conversation.
        on_event: called for what was left out and for remarks on the weights.
        on_rows: called with the progress.
        reading: options of `prepare_tasks`: shots, shots_data, limit, options,
            data_errors.

    Raises:
        LuminaError: as `prepare_tasks`, `lumina.load` and `Subject`.
    """
    ready = prepare_tasks(tasks, on_event=on_event, **reading)
    opened = open_evaluated(
        run,
        device=device,
        precision=precision,
        which=which,
        ema=ema,
        task=task,
        adapters=adapters,
        on_event=on_event,
    )
    model = Subject(
        opened.network,
        opened.tokenizer,
        rows=batch_size,
        too_long=too_long,
        chat=chat,
        on_rows=on_rows,
    )
    was_training = opened.network.training
    opened.network.eval()
    try:
        return ask(ready, model, opened.description)
    finally:
        opened.network.train(was_training)
