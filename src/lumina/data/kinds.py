"""The kinds of data there are, and the choice of one.

Without `--data-kind`, the first of `KINDS` that applies to the settings is the data of
the run. A kind that a plug-in registers is chosen by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lumina.config.option_values import value_like
from lumina.config.source_entries import source_paths
from lumina.data import arc_data, sudoku_data, tasks_data, text_data
from lumina.data.kind import Data, DataKind, Gives, Request
from lumina.data.mixture import mixture_data, streamed_mixture
from lumina.data.streaming import streamed_data
from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean

if TYPE_CHECKING:
    from lumina.config import Config

KINDS: tuple[DataKind, ...] = (
    sudoku_data.KIND,
    arc_data.KIND,
    tasks_data.KIND,
    streamed_mixture.KIND,
    mixture_data.KIND,
    streamed_data.KIND,
    text_data.KIND,
)
"""Lumina's own kinds. The last one applies to all settings."""

_REGISTERED: dict[str, DataKind] = {}

Prepare = Callable[[Request], Data]


def register_data(
    name: str, *, gives: Gives = "text", options: Mapping[str, Any] | None = None
) -> Callable[[Prepare], Prepare]:
    """Register a function that prepares data: `--data-kind NAME` chooses it.

    Args:
        name: differs from those of Lumina's own kinds.
        gives: what a model can learn from the data: "text", "tasks" or "puzzles".
        options: names and defaults of what `--data-options` can set.
    """
    if name in {kind.name for kind in KINDS}:
        raise LuminaError(
            "E005",
            f"the kind of data {name!r} is Lumina's own",
            "register yours under another name",
        )

    def decorate(prepare: Prepare) -> Prepare:
        before = _REGISTERED.get(name)
        if before and before.prepare.__module__ != prepare.__module__:
            raise LuminaError(
                "E005",
                f"two plug-ins register the kind of data {name!r}",
                "rename one of them",
            )
        _REGISTERED[name] = DataKind(name, prepare, gives, options=dict(options or {}))
        return prepare

    return decorate


def known_kinds() -> dict[str, DataKind]:
    """All kinds by name: Lumina's own and the registered ones."""
    return {kind.name: kind for kind in KINDS} | _REGISTERED


def names_data(config: Config) -> bool:
    """Whether the settings name any data to train on."""
    data = config.data
    named = data.train_data or data.tasks or data.data_kind
    return bool(named or source_paths(config))


def chosen_kind(config: Config) -> DataKind:
    """The kind of data that the settings choose.

    Raises:
        LuminaError: E005 for a kind that there is not, E002 for one that the model
            cannot learn from.
    """
    described = next(kind for kind in KINDS if kind.applies and kind.applies(config))
    name = config.data.data_kind
    if name is None:
        return described
    kinds = known_kinds()
    if name not in kinds:
        meant = did_you_mean(name, kinds)
        raise LuminaError(
            "E005",
            f"--data-kind {name}: there is no such kind of data",
            f"{meant}there are {', '.join(kinds)}; your own is a function under "
            f"@lumina.register_data({name!r}) in a file named with --plugins",
        )
    kind = kinds[name]
    if kind.gives != described.gives:
        raise LuminaError(
            "E002",
            f"data of kind {name} gives {kind.gives}, and the settings describe a "
            f"model that learns from {described.gives}",
            f"leave out --data-kind {name}, or choose another model",
        )
    if kind.applies is not None and not kind.applies(config):
        raise LuminaError(
            "E002",
            f"data of kind {name} does not go with the other settings, which describe "
            f"data of kind {described.name}",
            f"leave out --data-kind {name}",
        )
    return kind


def options_of(kind: DataKind, given: tuple[str, ...]) -> dict[str, Any]:
    """A kind's options: its defaults, and over them what was given.

    Args:
        kind: the kind.
        given: texts NAME=VALUE, values written as in JSON.

    Raises:
        LuminaError: E005 for an option that there is not, or a value of another type.
    """
    options = dict(kind.options)
    for text in given:
        name, _, written = text.partition("=")
        if name not in options:
            meant = did_you_mean(name, options)
            raise LuminaError(
                "E005",
                f"data_options {text}: data of kind {kind.name} has no option {name!r}",
                f"{meant}it has {', '.join(options) or 'none'}",
            )
        options[name] = value_like(options[name], written, f"data_options {text}")
    return options
