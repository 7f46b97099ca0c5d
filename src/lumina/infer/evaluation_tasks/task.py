"""What an evaluation task is, and the table of all tasks.

A task is a class under `@register_task` in a file of its own: of `known/`, where the
file is named like the task, or of a file that `--plugins` names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from lumina.found_by_name import FoundByName
from lumina.optim.declared import Option

if TYPE_CHECKING:
    from lumina.infer.evaluation_tasks.subject import Subject

Values = NDArray[np.float64]

Value = float | tuple[float, ...]
"""What an example gives a metric: a number, or several that `combine` puts together."""


def mean(values: Values) -> float:
    """The mean of the first number of each example; `values` is [examples, numbers]."""
    return float(values[:, 0].mean())


@dataclass(frozen=True)
class Metric:
    """One figure of a task.

    Attributes:
        name: in tables and files.
        words: what it is, in a line.
        higher_is_better: True or False; None: neither is better.
        combine: the figure of [examples, numbers]; `mean` has a standard error of its
            own, that of every other function is drawn by the bootstrap.
    """

    name: str
    words: str
    higher_is_better: bool | None = True
    combine: Callable[[Values], float] = mean


@dataclass(frozen=True)
class Example:
    """One question of a file.

    Attributes:
        id: tells it among those of its task: the name of its file and its line.
        group: what figures are given for apart, such as the subject; "" for none.
        content: what the task made of the record.
    """

    id: str
    group: str
    content: Any


@dataclass(frozen=True)
class Outcome:
    """What one example came to.

    Attributes:
        values: name of a metric -> what this example gives it. A metric that does not
            apply to the example is left out.
        details: plain JSON values that say what the model did; for the analysis of
            errors.
    """

    values: Mapping[str, Value]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shots:
    """Solved examples that are shown before a question.

    Attributes:
        examples: of a file of their own.
        count: shown before each question; 0: none.
    """

    examples: Sequence[Example] = ()
    count: int = 0

    def of(self, group: str) -> list[Example]:
        """The first ones of a question's group; where it has none, of all."""
        same = [one for one in self.examples if one.group == group]
        return (same or list(self.examples))[: self.count]


class EvaluationTask(ABC):
    """A kind of questions, and how answers to them are judged.

    Attributes:
        name: what `--tasks` calls it.
        words: what it measures, in a line.
        source: where its questions are published, and the source of its metrics.
        record: what a record of its files has, in words for messages.
        metrics: its figures, the main one first.
        options: options of its own, which `--task-option NAME.OPTION=VALUE` sets.
        settings: their values.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    source: ClassVar[str]
    record: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        values = {name: option.default for name, option in self.options.items()}
        self.settings: dict[str, Any] = values | dict(settings or {})

    @abstractmethod
    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Any]:
        """(group, content) of a record.

        Args:
            record: one record of a file.
            file: the name of the file, without its folder.

        Raises:
            BadRecord: E102 for fields that are missing or wrong.
        """

    @abstractmethod
    def measure(
        self, examples: Sequence[Example], model: Subject, shots: Shots
    ) -> list[Outcome]:
        """Ask the model every question.

        Args:
            examples: the questions.
            model: gives likelihoods and answers.
            shots: solved examples to show before each question; none for a task that
                does not take any.

        Returns:
            An outcome for each example, in their order.
        """

    def columns(self, first_row: Sequence[str]) -> tuple[str, ...] | None:
        """The columns of a table that has no row of names; None: it has one.

        Args:
            first_row: of the table.
        """
        return None

    @property
    def takes_shots(self) -> bool:
        """Whether solved examples can be shown before a question."""
        return False


TASKS = FoundByName[type[EvaluationTask]]("lumina.infer.evaluation_tasks.known")
"""Every task whose file has been imported, by name."""

T = TypeVar("T", bound=type[EvaluationTask])


def register_task(cls: T) -> T:
    """A decorator of an `EvaluationTask`, which `--tasks NAME=FILE` then asks.

    Raises:
        LuminaError: E005 for the name of one of Lumina's own tasks.
    """
    TASKS.refuse_taken(cls.name, cls.__module__, "an evaluation task")
    TASKS[cls.name] = cls
    return cls


def chosen_task(name: str) -> type[EvaluationTask]:
    """The task of a name.

    Raises:
        LuminaError: E005, with those that there are.
    """
    return TASKS.chosen(
        name,
        f"there is no evaluation task {name!r}",
        "`lumina evaluate --list-tasks` explains them; another one is a class under "
        "@lumina.register_task in a file that --plugins names",
    )
