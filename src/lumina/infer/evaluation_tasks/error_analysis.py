"""Which questions a model answers wrongly, and which only one of two models does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumina.infer.evaluation_tasks.results import TaskResult
from lumina.infer.evaluation_tasks.task import Metric, chosen_task, mean

_SHOWN = 300
"""Most characters of a question that are shown: its end."""


@dataclass(frozen=True)
class Flips:
    """Questions of a task that only one of the two models answered rightly.

    Attributes:
        both: right in both.
        neither: wrong in both.
        lost: ids of those that the baseline alone had right.
        won: ids of those that the candidate alone had right.
    """

    both: int
    neither: int
    lost: list[str]
    won: list[str]


def metric_of(task: str, name: str) -> Metric:
    """The declaration of a metric; the task's file says how it is combined."""
    return next(one for one in chosen_task(task).metrics if one.name == name)


def flips_of(first: TaskResult, second: TaskResult) -> Flips | None:
    """Who answered which questions rightly; None where answers are not right or wrong.

    Args:
        first: of the baseline.
        second: of the candidate, on the same questions.
    """
    main, figure = next(iter(first.figures.items()))
    if metric_of(first.task, main).combine is not mean:
        return None
    pairs = [
        (one["id"], one["values"][main], two["values"][main])
        for one, two in zip(first.examples, second.examples, strict=True)
        if main in one["values"] and main in two["values"]
    ]
    if any(value not in (0, 1) for _, *values in pairs for value in values):
        return None
    right = 0 if figure.higher_is_better is False else 1
    found = [(name, one == right, two == right) for name, one, two in pairs]
    return Flips(
        sum(one and two for _, one, two in found),
        sum(not one and not two for _, one, two in found),
        [name for name, one, two in found if one and not two],
        [name for name, one, two in found if two and not one],
    )


def wrong_of(result: TaskResult, most: int) -> list[dict[str, Any]]:
    """The wrong answers of a task that the model was surest of.

    Args:
        result: of the task.
        most: how many are given.

    Returns:
        Examples whose main metric is 0, by how much likelier the choice was than the
        right one; those without choices in their order. Of other metrics, the examples
        with the worst values.
    """
    main, figure = next(iter(result.figures.items()))
    apply = [one for one in result.examples if main in one["values"]]
    if metric_of(result.task, main).combine is not mean:
        return []
    higher = figure.higher_is_better is not False
    values = {one["id"]: float(one["values"][main]) for one in apply}
    if all(value in (0.0, 1.0) for value in values.values()):
        wrong = [one for one in apply if (values[one["id"]] == 1.0) != higher]
        return sorted(wrong, key=_sureness, reverse=True)[:most]
    apply.sort(key=lambda one: values[one["id"]], reverse=not higher)
    return apply[:most]


def _sureness(example: Mapping[str, Any]) -> float:
    """How much likelier the chosen one was than the right one, in nats."""
    logs, chosen, right = (
        example.get(name) for name in ("log_likelihoods", "chosen", "right")
    )
    if logs is None or chosen is None or right is None:
        return 0.0
    return float(logs[chosen] - logs[right])


def in_words(example: Mapping[str, Any]) -> list[str]:
    """Lines that show a question, what was answered and what is right."""
    lines = []
    if question := str(example.get("question", "")):
        lines.append(f"  question  {question[-_SHOWN:]!r}")
    choices, chosen = example.get("choices"), example.get("chosen")
    if isinstance(choices, list) and isinstance(chosen, int):
        lines.append(f"  chosen    {choices[chosen]!r}")
        lines.append(f"  right     {choices[example['right']]!r}")
    elif "answer" in example:
        lines.append(f"  answer    {example['answer']!r}")
    return lines
