"""Every command with its arguments; those of a run's configuration are elsewhere."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from lumina.cli.groups import members
from lumina.cli.main import COMMANDS
from lumina.cli.parsing import Parser
from lumina.config.sections import LEAVES
from references import code, table

HEAD = """# Commands

`lumina COMMAND --help` prints what stands here. Commands that plan or train also take
the [options](options.md) of a run. Exit codes are 0 (done), 1 (the work failed), 2 (the
command was wrong) and, after a signal, 128 and its number.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for name, (path, summary) in COMMANDS.items():
        module = importlib.import_module(path)
        if not hasattr(module, "GROUP"):
            parts.append(_described(f"lumina {name}", summary, module))
            continue
        parts.append(f"## lumina {name}\n\n{_sentence(summary)}\n")
        for word, inner in members(module.GROUP).items():
            member = importlib.import_module(inner)
            parts.append(_described(f"lumina {name} {word}", member.SUMMARY, member, 3))
    return "\n".join(parts)


def _described(name: str, summary: str, module: Any, depth: int = 2) -> str:
    parser = Parser(prog=name)
    module.add_arguments(parser)
    hidden = argparse.SUPPRESS
    shown = [action for action in parser._actions if action.help != hidden]
    shown = [a for a in shown if not isinstance(a, argparse._HelpAction)]
    # A command that takes a run's options takes nearly all of them.
    planned = sum(action.dest in LEAVES for action in shown) > len(LEAVES) // 2
    rows = [
        (_names(action), action.help or "")
        for action in shown
        if not (planned and action.dest in LEAVES)
    ]
    text = f"{'#' * depth} {name}\n\n{_sentence(summary)}"
    text += " Takes [options](options.md) of a run.\n" if planned else "\n"
    return f"{text}\n{table(('argument', 'meaning'), rows)}" if rows else text


def _names(action: argparse.Action) -> str:
    if action.option_strings:
        return ", ".join(map(code, action.option_strings))
    shown = action.metavar or action.dest
    return code(shown if isinstance(shown, str) else " ".join(shown))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
