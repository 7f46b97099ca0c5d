"""`lumina recommend`: settings for a model on some hardware, and what they rest on."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.features.measured import Row
    from lumina.plan.environment import Environment
    from lumina.train.matrix.recommend import Recommendation

_GOALS = ("speed", "memory", "exact")
_ENOUGH = 2**60
"""Bytes that every model fits into."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The hardware, the model, the context and the goal."""
    parser.add_argument(
        "--hardware",
        "--device",
        metavar="NAME",
        help='a hardware profile, or a size such as "8 GB"; default: this machine',
    )
    parser.add_argument(
        "--model",
        default="debug",
        metavar="PRESET|FOLDER",
        help="a preset, or a run, checkpoint or exported folder (default debug)",
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens in a row; default: the model's"
    )
    parser.add_argument(
        "--goal",
        choices=_GOALS,
        default="speed",
        help="speed: the fewest and cheapest settings that fit; memory: the least "
        "memory; exact: as speed, of settings that keep every number (default speed)",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=[],
        metavar="FILE",
        help="results of `lumina matrix` beside those in LUMINA_CACHE",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print settings as flags and YAML, and the rows behind them."""
    from lumina.features.measured import known_rows
    from lumina.plan.environment import probe
    from lumina.plan.hardware_profiles import find_profile
    from lumina.train.matrix.recommend import recommend
    from lumina.train.matrix.record import read_rows

    rows = known_rows()
    for name in args.rows:
        if not Path(name).is_file():
            raise LuminaError(
                "E104", f"{name} is no file", "name results.jsonl of `lumina matrix`"
            )
        rows += read_rows([Path(name)])
    machine, where = probe("auto"), "this machine"
    if args.hardware is not None:
        where, profile = find_profile(args.hardware)
        machine = profile.machine(probe("cpu"), 1)
    config = _config(args, machine)
    found = recommend(config, machine, args.goal, rows)
    facts = {
        "hardware": where,
        "device": machine.device,
        "memory_bytes": machine.memory_bytes,
        "model": args.model,
        "context": found.plan.spec.seq_length,
        "goal": args.goal,
        "planned_bytes": found.plan.memory["expected"],
        "planned_bound_bytes": found.plan.memory["bound"],
        "micro_batch_size": found.plan.micro_batch_size,
        "options": found.options,
        "flags": _flags(args, found.options),
        "costs": {lever.feature: lever.costs for lever in found.levers},
        "left_out": dict(found.left_out),
        "features": list(found.features),
        "rows": [_row(row) for row in found.rows],
        "unsupported": [list(one) for one in found.unsupported],
    }
    print(json.dumps(facts, indent=1) if args.json else _text(facts, found))
    return 0


def _config(args: argparse.Namespace, machine: Environment) -> Config:
    from lumina.config import Config
    from lumina.train.matrix.recommend import STEPS

    options: dict[str, Any] = {"steps": STEPS}
    if args.context is not None:
        if args.context < 1:
            raise LuminaError("E005", f"context is {args.context}", "give 1 or more")
        options["seq_length"] = args.context
    if not Path(args.model).is_dir():
        return Config(preset=args.model, **options)
    from lumina.observe.console import Console
    from lumina.train import Trainer

    # The weights give the shape; whether it fits is looked at afterwards.
    trainer = Trainer(
        Config(init_from=args.model, **options), console=Console(live=False)
    )
    trainer.explain(replace(machine, memory_bytes=_ENOUGH))
    return trainer.planned


def _flags(args: argparse.Namespace, options: dict[str, Any]) -> str:
    model = "--init-from" if Path(args.model).is_dir() else "--preset"
    words = ["lumina train", f"{model} {args.model}"]
    if args.context is not None:
        words.append(f"--seq-length {args.context}")
    for leaf, value in options.items():
        flag = leaf.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {value}")
    return " ".join(words)


def _row(row: Row) -> dict[str, Any]:
    return {
        "cell": row["cell"],
        "status": row["status"],
        "device": row["hardware"]["device"],
        "hardware": row["hardware"]["name"],
        "torch": row["hardware"]["versions"].get("torch", ""),
        "date": row["date"],
    }


def _text(facts: dict[str, Any], found: Recommendation) -> str:
    lines = [
        f"{facts['model']}, rows of {facts['context']} tokens, on {facts['hardware']} "
        f"({byte_size(facts['memory_bytes'])}); goal: {facts['goal']}",
        f"planned memory  {byte_size(facts['planned_bytes'])}, at most "
        f"{byte_size(facts['planned_bound_bytes'])}; "
        f"{facts['micro_batch_size']} rows a forward",
        "",
        "as flags",
        f"  {facts['flags']} --train-data FILES",
        "as YAML",
        *(f"  {leaf}: {json.dumps(v)}" for leaf, v in facts["options"].items()),
        *(() if facts["options"] else ("  nothing beyond the defaults is needed",)),
        "what it costs",
        *(f"  {name}: {cost}" for name, cost in facts["costs"].items()),
        *(() if facts["costs"] else ("  nothing",)),
    ]
    if facts["left_out"]:
        lines.append("not used")
        lines += [f"  {name}: {why}" for name, why in facts["left_out"].items()]
    lines.append("rests on these rows of `lumina matrix`")
    for row in facts["rows"]:
        other = "" if row["device"] == facts["device"] else (
            f"; not on {facts['device']}"
        )  # fmt: skip
        lines.append(
            f"  {row['cell']}: {row['status']} on {row['hardware'] or row['device']}, "
            f"torch {row['torch']}, {row['date']}{other}"
        )
    if not facts["rows"]:
        lines.append("  none")
    elif all(row["device"] != facts["device"] for row in facts["rows"]):
        lines.append(f"  none of them was measured on {facts['device']}")
    if facts["unsupported"]:
        lines.append("no row supports")
        lines += [f"  {' + '.join(one)}" for one in facts["unsupported"]]
        lines.append("  `lumina matrix --pairs --only FEATURES` tries them here")
    return "\n".join(lines)
