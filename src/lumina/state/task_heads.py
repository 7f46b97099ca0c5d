"""Weights of a model of several tasks as those of one, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lumina.errors import LuminaError
from lumina.state.weights import Weights

HEAD = "objective.head.weight"
HEADS = "objective.heads."


def one_task(weights: Weights, task: str | None) -> Weights:
    """The weights that answer for one task: an ordinary model with its head.

    Args:
        weights: of any model.
        task: the task of the head; None leaves a model of one task as it is.

    Raises:
        LuminaError: E005 for a task the model has not, or none where it has several.
    """
    tasks = weights.spec.tasks
    if tasks is None:
        if task is None:
            return weights
        raise LuminaError(
            "E005",
            f"there is no task {task!r}: the model in {weights.path} has one head",
            "leave --task out",
        )
    if task not in tasks.names:
        said = "no task is named" if task is None else f"there is no task {task!r}"
        raise LuminaError(
            "E005",
            f"{said}: the model in {weights.path} has several",
            f"use --task with one of {', '.join(tasks.names)}",
        )
    own = f"{HEADS}{tasks.names.index(task)}.weight"
    names = {n: n for n in weights.source.names() if not n.startswith(HEADS)}
    return replace(
        weights,
        spec=replace(weights.spec, tasks=None),
        source=Renamed(weights.source, names | {HEAD: own}),
        description=f"task {task} of {weights.description}",
    )


def require_one_head(network: Any, how: str = "use --task with") -> None:
    """Refuse a model that answers for several tasks, none of which is named.

    Args:
        network: with the names of its `tasks`; none: it has one head.
        how: the way to name one of them, before the words "one of ...".

    Raises:
        LuminaError: E005.
    """
    if network.tasks:
        raise _none_is_named(network.tasks, how)


def require_text(weights: Weights, task: str | None) -> None:
    """Refuse weights that do not predict text, or for no task in particular.

    Raises:
        LuminaError: E002 for a model of puzzles, E005 where a task has to be named.
    """
    if weights.spec.solves_puzzles:
        raise LuminaError(
            "E002",
            f"{weights.description} solves puzzles: it does not predict text, so there "
            "are no perplexity and no bits per byte",
            "the share of held-out puzzles that it solved is eval_exact_accuracy in "
            "the run's metrics.jsonl; --eval-data of `lumina train` names the puzzles",
        )
    tasks = weights.spec.tasks
    if tasks is not None and task is None:
        raise _none_is_named(tasks.names, "use --task with")


def _none_is_named(tasks: Sequence[str], how: str) -> LuminaError:
    return LuminaError(
        "E005",
        "the model has several tasks and none is named",
        f"{how} one of {', '.join(tasks)}",
    )


def with_heads(weights: Weights, names: Sequence[str]) -> Weights:
    """The weights to start a model of these tasks from (none: of one task).

    A model of one task gives every task a copy of its head.

    Raises:
        LuminaError: E002 where the weights have heads of other tasks, or none to copy.
    """
    tasks = weights.spec.tasks
    held = () if tasks is None else tasks.names
    if held == tuple(names):
        return weights
    if held:
        raise LuminaError(
            "E002",
            f"the weights in {weights.path} have heads for the tasks "
            f"{', '.join(held)}; wanted: {', '.join(names) or 'one head'}",
            "name the same tasks in the same order; `lumina export --task NAME` makes "
            "a model of one of them, to start from",
        )
    if weights.spec.tie_embeddings:
        raise LuminaError(
            "E002",
            f"the head of {weights.path} is its embedding, and tasks have heads of "
            "their own",
            "start from weights with --no-tie-embeddings",
        )
    kept = {n: n for n in weights.source.names() if n != HEAD}
    heads = {f"{HEADS}{i}.weight": HEAD for i in range(len(names))}
    return replace(weights, source=Renamed(weights.source, kept | heads))


@dataclass(frozen=True)
class Renamed:
    """Some tensors of a source under other names, perhaps several times."""

    source: Any
    origin: dict[str, str]

    def names(self) -> list[str]:
        """Logical names."""
        return list(self.origin)

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        found: Tensor = self.source.tensor(self.origin[name])
        return found

    def close(self) -> None:
        """Release what is behind."""
        self.source.close()
