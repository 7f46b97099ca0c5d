"""Commands that consist of others, such as `lumina data show`.

A group is a module of the table in `lumina.cli.main` that names a package in `GROUP`.
Each file of that package is a sub-command: it has `SUMMARY` (one line of help),
`add_arguments(parser)` and `run(args) -> int`. A new file is a new sub-command; nothing
else has to name it. Where the module names one of them in `DEFAULT`, that one is meant
when no sub-command is named. The files import what is heavy within their functions,
because the help of a group reads the summary of each.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from lumina.errors import LuminaError
from lumina.similar_names import nearest

_USAGE = """\
usage: lumina {name} COMMAND [options]

{summary}

commands:
{commands}

`lumina {name} COMMAND --help` explains a command."""


def members(package: str) -> dict[str, str]:
    """The sub-commands of a group: name on the command line -> module."""
    folder = importlib.import_module(package).__path__
    return {
        module.name.strip("_").replace("_", "-"): f"{package}.{module.name}"
        for module in pkgutil.iter_modules(folder)
    }


def chosen(
    name: str,
    summary: str,
    package: str,
    words: Sequence[str],
    default: str | None = None,
) -> tuple[str, Any, list[str]] | None:
    """The sub-command that the words of a group ask for.

    Args:
        name: of the group.
        summary: the group's line of help.
        package: holds a file for each sub-command.
        words: what stands behind the group's name.
        default: the sub-command that is meant where the first word is none of them.

    Returns:
        (name, module, the words behind it), or None where the help of the group was
        asked for and printed.

    Raises:
        LuminaError: E005 without a sub-command, E004 for an unknown one.
    """
    known = members(package)
    if default and (not words or words[0] not in (*known, "--help", "-h", "help")):
        return default, importlib.import_module(known[default]), list(words)
    if not words:
        raise LuminaError(
            "E005",
            f"`lumina {name}` needs a COMMAND",
            f"one of {', '.join(known)}; `lumina {name} --help` explains them",
        )
    word = words[0]
    if word in ("--help", "-h", "help"):
        print(_help(name, summary, known))
        return None
    if word not in known:
        close = nearest(word, known)
        hint = f"did you mean `lumina {name} {close}`? " if close else ""
        raise LuminaError(
            "E004",
            f"{word!r} is not a command of `lumina {name}`",
            f"{hint}`lumina {name} --help` lists them",
        )
    return word, importlib.import_module(known[word]), list(words[1:])


def _help(name: str, summary: str, known: dict[str, str]) -> str:
    width = max(map(len, known))
    lines = [
        f"  {one:<{width}}  {importlib.import_module(module).SUMMARY}"
        for one, module in known.items()
    ]
    return _USAGE.format(name=name, summary=summary, commands="\n".join(lines))
