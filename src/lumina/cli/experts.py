"""`lumina experts`: named experts, their goals, and the models they are attached to."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError, shell_path

ACTIONS = ("list", "show", "create", "attach", "detach", "freeze", "goal")

_EXPLAINED = """\
list                      every expert
show NAME                 all that is known of one
create NAME               enter one, with --description, --category, --goal, --parent
attach NAME RUN NEW-RUN   a copy of RUN with the trained expert in it
detach NAME RUN NEW-RUN   a copy of RUN without it
freeze NAME [--off]       keep it from being trained further
goal [NAME TEXT] [--off]  link the expert to a goal; alone: list goals and their experts

An expert is trained alone with: lumina train --init-from RUN --expert-id NAME"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXPLAINED
    parser.add_argument("action", choices=ACTIONS, help="see below")
    parser.add_argument(
        "operands", nargs="*", metavar="WORD", help="what the action takes"
    )
    parser.add_argument(
        "--expert-registry",
        default="experts",
        metavar="FOLDER",
        help="where they are listed; default: experts",
    )
    parser.add_argument(
        "--plugins",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="attach, detach: your own .py files or modules with registered parts of "
        "the model",
    )
    parser.add_argument("--description", help="create: what it is for")
    parser.add_argument("--category", help="create: a label; default: general")
    parser.add_argument(
        "--goal", action="append", metavar="TEXT", help="create: a goal it serves"
    )
    parser.add_argument("--parent", metavar="NAME", help="create: the expert above it")
    parser.add_argument("--off", action="store_true", help="freeze, goal: take it back")
    parser.add_argument("--json", action="store_true", help="list, show: print JSON")


def run(args: argparse.Namespace) -> int:
    """Do one action."""
    from lumina.model.registry import load_plugins
    from lumina.state.expert_registry import Registry

    _check_options(args)
    load_plugins(args.plugins)
    registry = Registry(args.expert_registry)
    {
        "list": _list,
        "show": _show,
        "create": _create,
        "attach": _move,
        "detach": _move,
        "freeze": _freeze,
        "goal": _goal,
    }[args.action](args, registry)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that the action does not read."""
    read = {
        "create": {"description", "category", "goal", "parent"},
        "list": {"json"},
        "show": {"json"},
        "freeze": {"off"},
        "goal": {"off"},
        "attach": {"plugins"},
        "detach": {"plugins"},
    }.get(args.action, set())
    options = ("description", "category", "goal", "parent", "off", "json", "plugins")
    for name in options:
        if getattr(args, name) and name not in read:
            raise LuminaError(
                "E002",
                f"--{name} means nothing to `experts {args.action}`",
                "`lumina experts --help` says what each action takes",
            )


def _words(args: argparse.Namespace, *names: str) -> list[str]:
    if len(args.operands) != len(names):
        raise LuminaError(
            "E005",
            f"`experts {args.action}` takes {' '.join(names) or 'no words'}, not "
            f"{' '.join(args.operands) or 'nothing'}",
            "`lumina experts --help` says what each action takes",
        )
    return list(args.operands)


def _list(args: argparse.Namespace, registry: Any) -> None:
    from lumina.cli.text import table

    _words(args)
    entries = registry.entries.values()
    if args.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    if not entries:
        print(f"no experts in {registry.folder}; `lumina experts create NAME`")
        return
    names = {entry.id: entry.name for entry in entries}
    rows = [
        (
            entry.name,
            entry.category,
            "yes" if entry.checkpoint else "no",
            "yes" if entry.active else "no",
            "yes" if entry.frozen else "no",
            names.get(entry.parent_id, "-"),
            "; ".join(entry.goals) or "-",
            entry.description,
        )
        for entry in entries
    ]
    head = ("name", "category", "trained", "attached", "frozen", "parent", "goals",
            "description")  # fmt: skip
    print(table(head, rows))


def _show(args: argparse.Namespace, registry: Any) -> None:
    (name,) = _words(args, "NAME")
    values = asdict(registry.find(name))
    if args.json:
        print(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        print(f"{key:<12}{value if value not in (None, '', [], {}) else '-'}")


def _create(args: argparse.Namespace, registry: Any) -> None:
    from lumina.state.expert_registry import check_name

    (name,) = _words(args, "NAME")
    check_name(name)
    if args.parent is not None:
        registry.find(args.parent)
    with registry.changing():
        registry.create(
            name,
            description=args.description or "",
            category=args.category or "general",
            goals=args.goal,
            parent=args.parent,
        )
    print(
        f"{name} is in {registry.folder}\n"
        f"next: lumina train --init-from RUN --expert-id {name} --train-data PATH"
    )


def _freeze(args: argparse.Namespace, registry: Any) -> None:
    (name,) = _words(args, "NAME")
    registry.find(name)  # refused before a folder is made
    with registry.changing():
        entry = registry.find(name)
        entry.frozen = not args.off
        registry.touch(entry)
    print(f"{name} {'may train again' if args.off else 'is frozen'}")


def _goal(args: argparse.Namespace, registry: Any) -> None:
    if not args.operands:
        for goal, names in registry.goals().items():
            print(f"{goal}: {', '.join(names)}")
        return
    name, goal = _words(args, "NAME", "TEXT")
    registry.find(name)  # refused before a folder is made
    with registry.changing():
        if args.off:
            registry.unlink(name, goal)
        else:
            registry.link(name, goal)
    print(f"{name}: {'; '.join(registry.find(name).goals) or 'no goals'}")


def _move(args: argparse.Namespace, registry: Any) -> None:
    """Attach or detach: a new run beside the old one."""
    from lumina.config import Config, Source
    from lumina.data.tokenizer import Tokenizer
    from lumina.plan.model_options import model_leaves
    from lumina.state.experts import attach, detach, read_expert
    from lumina.state.huggingface.run import write_run
    from lumina.state.huggingface.staging import require_unused
    from lumina.state.weights import open_weights

    name, source, target = _words(args, "NAME", "RUN", "NEW-RUN")
    entry = registry.find(name)
    if args.action == "attach" and entry.checkpoint is None:
        raise LuminaError(
            "E002",
            f"{name} has not been trained yet",
            f"lumina train --init-from RUN --expert-id {name}",
        )
    folder = Path(target).expanduser()
    require_unused(folder)
    weights = open_weights(source)
    if args.action == "attach":
        changed = attach(weights, read_expert(Path(entry.checkpoint)), name)
    else:
        changed = detach(weights, name)
    origin = f"{Path(source).resolve().name}, {args.action}ed {name}"
    leaves = model_leaves(changed.spec)
    config = Config().override(leaves, Source("file", f"weights {origin}"))
    write_run(
        folder,
        changed.spec,
        {n: changed.source.tensor(n) for n in changed.source.names()},
        Tokenizer.from_path(weights.tokenizer_folder),
        config,
        origin,
    )
    weights.close()
    with registry.changing():
        entry = registry.find(name)
        entry.active = args.action == "attach"
        registry.touch(entry)
    run = shell_path(folder)
    print(f"{folder}: {origin}\nnext: lumina generate {run} --prompt 'Once'")
