"""The command `lumina`: find the command, parse, run, and turn failures into words.

Nothing heavy is imported here: the table names modules, and only the one asked for
is loaded, so `lumina --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from lumina.cli.documented_flags import translated
from lumina.cli.streams import provide_standard_streams
from lumina.errors import LuminaError
from lumina.similar_names import nearest

# Command -> (module, one line of help), in the order help shows them. A module has
# `add_arguments(parser)` and `run(args) -> int`, or `GROUP`: a package of sub-commands
# (`lumina.cli.groups`). A command is here once it works.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("lumina.cli.train", "train a model, or go on training one"),
    "export": ("lumina.cli.export", "write a run's model for other tools"),
    "import": ("lumina.cli.import_", "make a run from a Hugging Face folder"),
    "generate": ("lumina.cli.generate", "continue texts with a trained model"),
    "evaluate": (
        "lumina.cli.evaluate",
        "loss on files, or questions of tasks",
    ),
    "compare": ("lumina.cli.compare", "two models or sets of runs, with tests"),
    "chat": ("lumina.cli.chat", "talk with a trained model"),
    "context": ("lumina.cli.context", "how far back a model reads"),
    "serve": ("lumina.cli.serve", "answer requests over HTTP, several side by side"),
    "tokenizer": (
        "lumina.cli.tokenizer",
        "train, inspect, compare and extend tokenizers",
    ),
    "data": ("lumina.cli.data", "show, check, clean and prepare data"),
    "experts": ("lumina.cli.experts", "named experts: train, attach, detach, goals"),
    "adapters": ("lumina.cli.adapters", "list, merge, combine and convert adapters"),
    "presets": ("lumina.cli.presets", "list the presets, or show one in detail"),
    "config": ("lumina.cli.config", "show settings and where each came from"),
    "checkpoints": ("lumina.cli.checkpoints", "list, check, compare checkpoints"),
    "runs": ("lumina.cli.runs", "list, show, compare, tag and remove runs; reports"),
    "replay": ("lumina.cli.replay", "decide again what a run decided, and compare"),
    "experience": (
        "lumina.cli.experience",
        "what is remembered of earlier runs, and what it is worth",
    ),
    "features": ("lumina.cli.features", "list what can be switched, and its cost"),
    "bench": ("lumina.cli.bench", "measure parts of Lumina on this machine"),
    "prove": ("lumina.cli.prove", "a bundle: how fast and exact training is here"),
    "matrix": ("lumina.cli.matrix", "which features go together, by short trainings"),
    "recommend": ("lumina.cli.recommend", "settings for a model on some hardware"),
    "plan": ("lumina.cli.plan", "parameters, memory and time, on any hardware"),
    "sweep": ("lumina.cli.sweep", "train with other values, one after another"),
    "suggest": ("lumina.cli.suggest", "starting points for rate, batch and passes"),
    "optimize": ("lumina.cli.optimize", "the context and the batch that fit here"),
    "lr-range": ("lumina.cli.lr_range", "sweep the learning rate, and suggest one"),
    "pretests": ("lumina.cli.pretests", "try features here, and what was found"),
    "profile": ("lumina.cli.profile", "where time and memory of a training go"),
    "completion": ("lumina.cli.completion", "complete commands in bash, zsh, fish"),
    "doctor": ("lumina.cli.doctor", "show what this machine offers"),
    "explain": (
        "lumina.cli.explain",
        "what an error code means, what helps, what a run decided",
    ),
    "demo": ("lumina.cli.demo", "train, fine-tune and question a small model here"),
}

ALSO = {"lr-find": "lr-range", "lr-range-test": "lr-range", "find-lr": "lr-range"}
"""Other names of commands."""

_EVERYWHERE = ("--debug", "--verbose")

_USAGE = """\
usage: lumina COMMAND [options]

Trains transformer language models: plans, proves, guards and explains.

commands:
{commands}

options of every command:
  --help     what the command does and takes
  --verbose  say more, such as the cause of an error
  --debug    show the traceback of an error

  lumina --version prints the version; lumina COMMAND --help explains a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `lumina`; default: those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 the command was wrong, 130 interrupted.
    """
    provide_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    debug, verbose = "--debug" in words, "--verbose" in words
    try:
        code = _dispatch(words, of_shell=argv is None)
        sys.stdout.flush()  # so that a closed pipe is met here, not at exit
        return code
    except BrokenPipeError:
        # The reader, such as `head`, has gone: not a failure to talk about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        from lumina.cli.failures import report

        return report(error, debug=debug, verbose=verbose)


def help_text() -> str:
    """What `lumina --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return _USAGE.format(commands="\n".join(lines))


def _dispatch(words: list[str], of_shell: bool) -> int:
    # --debug and --verbose may stand before the command too.
    early = []
    while words and words[0] in _EVERYWHERE:
        early.append(words.pop(0))
    if not words:
        print(help_text())
        return 2
    words = translated(words)
    name, rest = ALSO.get(words[0], words[0]), words[1:]
    if name in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if name == "--version":
        from lumina import __version__

        print(f"lumina {__version__}")
        return 0
    module, summary = _command(name), COMMANDS[name][1]
    prog = f"lumina {name}"
    if hasattr(module, "GROUP"):
        from lumina.cli.groups import chosen

        default = getattr(module, "DEFAULT", None)
        found = chosen(name, summary, module.GROUP, rest, default)
        if found is None:
            return 0
        name, module, rest = found
        prog, summary = f"{prog} {name}", module.SUMMARY
    from lumina.cli.parsing import Parser, parse

    parser = Parser(prog=prog, description=summary)
    parser.add_everywhere()
    module.add_arguments(parser)
    args = parse(parser, [*rest, *early])
    # For commands that start themselves again in other processes.
    args.words = [*prog.split()[1:], *rest, *early]
    args.of_shell = of_shell
    return int(module.run(args) or 0)


def _command(name: str) -> Any:
    if name in COMMANDS:
        return importlib.import_module(COMMANDS[name][0])
    close = nearest(name, COMMANDS)
    hint = f"did you mean `lumina {close}`? " if close else ""
    kind = "an option before the command" if name.startswith("-") else "a command"
    raise LuminaError(
        "E004", f"{name!r} is not {kind}", f"{hint}`lumina --help` lists the commands"
    )


if __name__ == "__main__":
    sys.exit(main())
