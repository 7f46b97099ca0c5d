"""A command-line parser whose errors carry codes, and which never guesses."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from lumina.errors import LuminaError

EVERYWHERE = {
    "--verbose": "say more, such as the cause of an error",
    "--debug": "show the traceback of an error",
}
"""Options of every command, and their help."""


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; its complaints are `LuminaError`s.

    Subcommands made with `add_subparsers` are `Parser`s too.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, **kwargs)

    def add_everywhere(self) -> None:
        """Add the options that every command has; `main` acts on them."""
        for flag, text in EVERYWHERE.items():
            self.add_argument(flag, action="store_true", help=text)

    def error(self, message: str) -> NoReturn:
        """Turn argparse's complaint into E005."""
        raise LuminaError("E005", message, f"`{self.prog} --help` says what it takes")

    def option_strings(self) -> set[str]:
        """Every option of this parser and its subcommands."""
        strings = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    strings |= child.option_strings()
        return strings


class _Help(argparse.HelpFormatter):
    """Every spelling of an option, then its value once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(
            action, self._get_default_metavar_for_optional(action)
        )
        return f"{', '.join(action.option_strings)} {value}"

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None,
    ) -> str:
        # A usage line with eighty options is of no help.
        shown = [a for a in actions if not a.option_strings]
        text = super()._format_usage(usage, shown, [], prefix).rstrip()
        return f"{text} [options]\n\n"


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command.

    Raises:
        LuminaError: E004 unknown option (names the nearest), E005 anything else.
    """
    known = parser.option_strings()
    ready = list(_switched(_spelled(words, known), known))
    for word in _options(ready):
        if word not in known:
            raise _unknown(parser, word, known)
    args, rest = parser.parse_known_args(ready)
    if rest:
        if rest[0].startswith("-"):
            raise _unknown(parser, rest[0], known)
        # The command whose words they are, not the program that has it.
        bare = getattr(args, "bare_words", None)
        meant = f"did you mean {bare} {shlex.quote(rest[0])}? " if bare else ""
        raise LuminaError(
            "E005",
            f"{rest[0]!r} belongs to no option",
            f"{meant}`{parser.prog} --help` says what it takes",
        )
    _expand_homes(parser, args)
    return args


_PATHS = (
    "FILE",
    "FOLDER",
    "DIR",
    "PATH",
    "RUN",
    "PRESET|FOLDER",
    "NAME|FILE",
    "NAME|RUN",
    "TOKENIZER",
)
"""What the values of options and arguments are called that are paths."""

_PATH_NAMES = (
    "run", "runs", "folder", "file", "files", "model", "checkpoint", "first", "second",
    "out", "paths", "tokenizer",
)  # fmt: skip
"""Names of arguments, without an option before them, that are paths."""


def _expand_homes(parser: Parser, args: argparse.Namespace) -> None:
    """~ at the beginning of every path; a shell leaves it in --option=~/path.

    Raises:
        LuminaError: E104 where that home is not known.
    """
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        wanted: Callable[[str], bool]
        if action.metavar == "TEXT|FILE":
            wanted = os.path.isfile
        elif action.metavar in _PATHS or (
            not action.option_strings and action.dest in _PATH_NAMES
        ):
            wanted = bool
        else:
            continue
        if isinstance(value, str):
            setattr(args, action.dest, _at_home(value, wanted))
        elif isinstance(value, list):
            found = [_at_home(v, wanted) if isinstance(v, str) else v for v in value]
            setattr(args, action.dest, found)


def _at_home(path: str, wanted: Callable[[str], bool]) -> str:
    if not path.startswith("~"):
        return path
    from lumina.config.leaves import at_home

    found = at_home(path)
    return found if wanted(found) else path


def _options(words: Sequence[str]) -> Iterable[str]:
    for word in words:
        if word == "--":
            return
        if word.startswith("--"):
            yield word.split("=", 1)[0]


def _spelled(words: Sequence[str], known: set[str]) -> list[str]:
    """Hyphens for underscores in option names; negative numbers tied to options."""
    ready: list[str] = []
    for index, word in enumerate(words):
        if word == "--":
            return ready + list(words[index:])
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if name not in known:
                name = "--" + name[2:].replace("_", "-")
            ready.append(name + equals + value)
        elif word.startswith("-") and ready and _is_number(word):
            # argparse would take -1e-3 for an option.
            ready[-1] = f"{ready[-1]}={word}" if ready[-1] in known else ready[-1]
            if not ready[-1].endswith(f"={word}"):
                ready.append(word)
        else:
            ready.append(word)
    return ready


def _switched(words: Sequence[str], known: set[str]) -> Iterable[str]:
    """`--x true` and `--x false`, as other trainers write switches: `--x`, `--no-x`."""
    waiting: str | None = None  # a switch that a truth value may follow
    for index, word in enumerate(words):
        if word == "--":
            if waiting is not None:
                yield waiting
            yield from words[index:]
            return
        if waiting is not None:
            switch, waiting = waiting, None
            if word.lower() in _TRUTHS:
                yield _TRUTHS[word.lower()] + switch[2:]
                continue
            yield switch
        name, equals, value = word.partition("=")
        negated = f"--no-{name[2:]}"
        if not (name.startswith("--") and name in known and negated in known):
            yield word
        elif equals and value.lower() in _TRUTHS:
            yield _TRUTHS[value.lower()] + name[2:]
        elif equals:
            yield word
        else:
            waiting = name
    if waiting is not None:
        yield waiting


_TRUTHS = {"true": "--", "false": "--no-"}


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _unknown(parser: Parser, word: str, known: set[str]) -> LuminaError:
    from lumina.config.leaves import meaning  # loaded only for an error

    # Compared without the dashes: short names would all look alike with them.
    names = [option.lstrip("-") for option in known if option.startswith("--")]
    name = word.lstrip("-").split("=", 1)[0]
    hint = meaning(name, {option.replace("-", "_") for option in names})
    return LuminaError(
        "E004",
        f"{word.split('=', 1)[0]} is not an option of `{parser.prog}`",
        f"{_as_flags(hint)}`{parser.prog} --help` lists them",
    )


def _as_flags(hint: str) -> str:
    """A hint about options with their names as the command line writes them."""
    return re.sub(r"'([a-z0-9_]+)'", lambda m: "--" + m[1].replace("_", "-"), hint)
