"""Every command with its sub-commands and options, for what completes them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field


@dataclass
class Command:
    """What may stand behind the words of a command.

    Attributes:
        words: of the command, such as ("runs", "list"); empty for `lumina` itself.
        help: one line.
        commands: sub-command -> its line of help.
        options: spelling -> its line of help.
        choices: spelling of an option -> the values that it may have.
        takes_value: spellings of options that are followed by a value.
        operands: words that may stand for the command's operands.
    """

    words: tuple[str, ...]
    help: str = ""
    commands: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    takes_value: set[str] = field(default_factory=set)
    operands: tuple[str, ...] = ()


def all_commands() -> list[Command]:
    """`lumina` and every command, from their parsers. Loads every command's module."""
    import importlib

    from lumina.cli.groups import members
    from lumina.cli.main import COMMANDS
    from lumina.cli.parsing import EVERYWHERE

    top = Command((), commands={name: text for name, (_, text) in COMMANDS.items()})
    top.options = EVERYWHERE | {
        "--help": "list the commands",
        "--version": "print the version",
    }
    found = [top]
    for name, (place, summary) in COMMANDS.items():
        module = importlib.import_module(place)
        if not hasattr(module, "GROUP"):
            found += _of_parser((name,), summary, module)
            continue
        group = Command((name,), summary)
        found.append(group)
        for inner, inner_place in members(module.GROUP).items():
            sub = importlib.import_module(inner_place)
            group.commands[inner] = sub.SUMMARY
            found += _of_parser((name, inner), sub.SUMMARY, sub)
        default = getattr(module, "DEFAULT", None)
        if default is not None:
            meant = next(c for c in found if c.words == (name, default))
            group.options, group.choices = meant.options, meant.choices
            group.takes_value = meant.takes_value
    return found


def _of_parser(words: tuple[str, ...], summary: str, module: object) -> list[Command]:
    from lumina.cli.parsing import Parser

    parser = Parser(prog=" ".join(("lumina", *words)), description=summary)
    parser.add_everywhere()
    module.add_arguments(parser)  # type: ignore[attr-defined]
    return _walked(words, summary, parser)


def _walked(
    words: tuple[str, ...], summary: str, parser: argparse.ArgumentParser
) -> list[Command]:
    command = Command(words, summary)
    found = [command]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            command.commands |= {name: helps.get(name, "") for name in action.choices}
            for name, child in action.choices.items():
                found += _walked((*words, name), helps.get(name, ""), child)
            continue
        if not action.option_strings:
            command.operands = tuple(map(str, action.choices or ()))
            continue
        values = _values(action)
        for spelling in action.option_strings:
            command.options[spelling] = _one_line(action.help)
            if values:
                command.choices[spelling] = values
            if action.nargs != 0:
                command.takes_value.add(spelling)
    return found


def _values(action: argparse.Action) -> tuple[str, ...]:
    """The values of an option: its choices, or those that its help shows."""
    if action.choices:
        return tuple(map(str, action.choices))
    shown = action.metavar
    if isinstance(shown, str) and shown.startswith("{") and shown.endswith("}"):
        return tuple(shown[1:-1].split(","))
    return ()


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("%%", "%").split())
