"""Options of a command from a YAML file, as if they stood on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lumina.config
from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean

RECIPES = Path(lumina.config.__file__).with_name("serving_recipes")
"""Files that may be given by their names alone."""


class OptionFile(argparse.Action):
    """`--config-file FILE`: sets the options that the file names.

    Options that come after it, or were set to something else before it, stay.

    Args:
        synonyms: further names of options, by which other programs call them.
        arguments: of `argparse.Action`.
    """

    def __init__(
        self, *arguments: Any, synonyms: Mapping[str, str], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._synonyms = synonyms

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Read the file; E101 to E106 where it cannot be, E004 for an unknown name."""
        from lumina.config.files import read_mapping

        path = str(values)
        setattr(namespace, self.dest, path)
        known = {
            word.removeprefix("--").replace("-", "_"): action
            for action in parser._actions
            for word in action.option_strings
            if word.startswith("--") and action.dest not in ("help", self.dest)
            and not word.startswith("--no-")
        }  # fmt: skip
        for name, value in read_mapping(self._file(path)).items():
            asked = str(name).replace("-", "_")
            asked = self._synonyms.get(asked, asked)
            if asked not in known:
                hint = did_you_mean(asked, [*known, *self._synonyms])
                raise LuminaError(
                    "E004",
                    f"{path}: there is no option {name!r}",
                    hint + "--help lists the options",
                )
            action = known[asked]
            if getattr(namespace, action.dest, action.default) == action.default:
                setattr(namespace, action.dest, _value(path, str(name), action, value))

    def _file(self, path: str) -> Path:
        """The file itself, or the recipe of that name."""
        from lumina.config.leaves import at_home

        recipe = RECIPES / f"{path.replace('-', '_')}.yaml"
        given = Path(at_home(path))
        return recipe if recipe.is_file() and not given.exists() else given


def _value(path: str, name: str, action: argparse.Action, value: Any) -> Any:
    """A value of the file as the option has it.

    Raises:
        LuminaError: E005 for one that the option does not take.
    """
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise _refused(path, name, value, "true or false")
        return value
    if isinstance(value, bool | dict | list) or value is None:
        raise _refused(path, name, value, "one value")
    kind = action.type if callable(action.type) else str
    try:
        found = kind(str(value))
    except ValueError:
        raise _refused(path, name, value, "a whole number") from None
    if action.choices is not None and found not in action.choices:
        raise _refused(path, name, value, ", ".join(map(str, action.choices)))
    return found


def _refused(path: str, name: str, value: Any, wanted: str) -> LuminaError:
    return LuminaError("E005", f"{path}: {name} is {value!r}", f"give {wanted}")
