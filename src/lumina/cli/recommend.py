"""`lumina recommend`: settings for a model on some hardware, and what they rest on."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.cli.options import add_config_options, flags_from_args
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from lumina.quantities import byte_size, bytes_of, duration

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.features.measured import Row
    from lumina.plan.environment import Environment
    from lumina.plan.plan import Plan
    from lumina.plan.time_estimate import TimeEstimate

_GOALS = ("speed", "memory", "exact")
_OTHERWISE = {
    "device", "nproc", "init_from", "seq_length", "resume", "auto_resume",
    "branch_from", "num_nodes", "node_rank", "master_addr", "master_port",
}  # fmt: skip
"""Options of a training that are said otherwise here, or have no place."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The hardware, the model, the context and the goal."""
    parser.add_argument(
        "--hardware",
        "--device",
        metavar="NAME",
        help='a hardware profile, or a size such as "8 GB"; default: this machine',
    )
    parser.add_argument(
        "--devices",
        "--nproc",
        type=int,
        default=1,
        metavar="N",
        help="how many of them train together (default 1)",
    )
    parser.add_argument(
        "--model",
        default="debug",
        metavar="PRESET|FOLDER",
        help="a preset, or a run, checkpoint or exported folder (default debug)",
    )
    parser.add_argument(
        "--context",
        "--seq-length",
        type=int,
        metavar="N",
        help="tokens in a row; default: the model's",
    )
    parser.add_argument(
        "--host-memory",
        metavar="SIZE",
        help='memory beside the devices, such as "64 GB"; default: this machine\'s',
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
    parser.epilog = (
        "Every option of a training may be added, such as --use-peft --load-in-4bit, "
        "and stays as it is."
    )
    add_config_options(parser, leaves=LEAVES.keys() - _OTHERWISE)


def run(args: argparse.Namespace) -> int:
    """Print settings as flags and YAML, and the rows behind them."""
    from lumina.features.measured import known_rows
    from lumina.plan.environment import probe
    from lumina.plan.hardware_profiles import find_profile
    from lumina.plan.time_estimate import estimate_time
    from lumina.train.matrix.recommend import recommend
    from lumina.train.matrix.record import read_rows

    for name, value in (("devices", args.devices), ("context", args.context)):
        if value is not None and value < 1:
            raise LuminaError("E005", f"{name} is {value}", "give 1 or more")
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
        machine = profile.machine(probe("cpu"), args.devices)
    elif machine.device == "cuda" and args.devices > machine.device_count:
        raise LuminaError(
            "E003",
            f"{args.devices} devices, and this machine has {machine.device_count}",
            "name one that has them with --hardware",
        )
    machine = _with_host_memory(args.host_memory, machine)
    config, vocab_size = _config(args, machine)
    elsewhere = args.hardware is not None and args.host_memory is None
    try:
        found = recommend(config, machine, args.goal, rows, vocab_size)
    except LuminaError as error:
        raise _of_host_memory(error) if elsewhere else error from error
    plan = found.plan
    time = estimate_time(plan, machine, earlier=())
    keeps = _rows_that_keep_the_tokens(args, config, plan)
    warnings = [*plan.warnings, *([keeps] if keeps else [])]
    facts = {
        "hardware": where,
        "devices": args.devices,
        "device": machine.device,
        "memory_bytes": machine.memory_bytes,
        "host_memory_bytes": machine.host_memory_bytes,
        "host_memory_of": "this machine" if args.host_memory is None else "asked for",
        "model": args.model,
        "context": plan.spec.seq_length,
        "goal": args.goal,
        "planned_bytes": plan.memory["expected"],
        "planned_bound_bytes": plan.memory["bound"],
        "elsewhere_bytes": dict(plan.elsewhere),
        "parallel": plan.parallel,
        "micro_batch_size": plan.micro_batch_size,
        "global_batch_size": plan.global_batch_size,
        "tokens_a_step": plan.global_batch_size * plan.spec.seq_length,
        "rows_a_step_before": config.train.global_batch_size,
        "seconds_a_step": None if time is None else time.likely,
        "time": "" if time is None else f"{_range(time)}: {time.why}",
        "options": dict(found.options),
        "flags": _flags(args, config, found.options),
        "costs": {lever.feature: lever.costs for lever in found.levers},
        "left_out": dict(found.left_out),
        "warnings": warnings,
        "features": list(found.features),
        "rows": [_row(row) for row in found.rows],
        "unsupported": [list(one) for one in found.unsupported],
    }
    print(json.dumps(facts, indent=1) if args.json else _text(facts))
    return 0


def _with_host_memory(size: str | None, machine: Environment) -> Environment:
    """The machine with other memory beside its devices, where some is named."""
    if size is None:
        return machine
    if not (found := bytes_of(size)):
        raise LuminaError("E005", f"{size!r} is no size", 'write it as "64 GB"')
    return replace(machine, host_memory_bytes=found)


def _rows_that_keep_the_tokens(
    args: argparse.Namespace, config: Config, plan: Plan
) -> str:
    """What to do where a longer context makes a step of many more tokens, or ""."""
    from lumina.config import Config
    from lumina.plan.decisions import asked_for

    rows = config.train.global_batch_size
    chosen = config.train.init_from or asked_for(config, "global_batch_size")
    if chosen or rows is None or rows != plan.global_batch_size:
        return ""
    usual = rows * Config.resolve(preset=args.model).model.seq_length
    step = plan.global_batch_size * plan.spec.seq_length
    fewer = args.devices * max(1, usual // (plan.spec.seq_length * args.devices))
    if step < 4 * usual or fewer >= rows:
        return ""
    return (
        f"a step has {step:,} tokens, and the preset's has {usual:,}: "
        f"--global-batch-size {fewer} keeps it near that"
    )


def _of_host_memory(error: LuminaError) -> LuminaError:
    """A lack of host memory, which is that of this machine and not of the other."""
    if error.code != "E202":
        return error
    hint = f'--host-memory "256 GB" counts on that of another machine; or {error.hint}'
    message = f"{error.message}; the host memory is this machine's"
    return LuminaError(error.code, message, hint)


def _range(time: TimeEstimate) -> str:
    """Seconds of a step in words."""
    basis = "measured" if time.measured else "assumed"
    likely, quick, slow = map(duration, (time.likely, time.quick, time.slow))
    return f"about {likely}, {quick} to {slow} ({basis})"


def _config(
    args: argparse.Namespace, machine: Environment
) -> tuple[Config, int | None]:
    """The configuration that is asked for, and the tokens of its weights' tokenizer."""
    from lumina.config import Config, Source
    from lumina.train.matrix.recommend import ENOUGH, STEPS, WEIGHTS, as_tuned

    flags = flags_from_args(args)
    if args.context is not None:
        flags["seq_length"] = args.context
    if args.devices > 1:
        flags["nproc"] = args.devices
    steps = Source("decided", "of a plan")
    folder = Path(args.model).is_dir()
    if folder:
        flags["init_from"] = args.model
        config = Config.resolve(flags=flags)
    else:
        if flags.get("use_peft"):  # beside weights of this shape, wherever they are
            flags["init_from"] = WEIGHTS
        config = Config.resolve(preset=args.model, flags=flags)
    if config.train.steps is None and config.train.epochs is None:
        config = config.override({"steps": STEPS}, steps)
    if not folder:
        return as_tuned(config, args.devices), None
    from lumina.observe.console import Console
    from lumina.train import Trainer

    # The weights give the shape; whether it fits is looked at afterwards.
    trainer = Trainer(config, console=Console(live=False))
    large = replace(machine, memory_bytes=ENOUGH, host_memory_bytes=ENOUGH)
    plan, _, _ = trainer.explain(large)
    return trainer.planned, plan.spec.vocab_size


def _flags(args: argparse.Namespace, config: Config, options: Mapping[str, Any]) -> str:
    """The command that trains so."""
    words = ["lumina train"]
    if Path(args.model).is_dir():
        words.append(f"--init-from {shlex.quote(args.model)}")
    else:
        words.append(f"--preset {args.model}")
        if config.train.init_from:
            words.append(f"--init-from {config.train.init_from}")
    if args.devices > 1:
        words.append(f"--nproc {args.devices}")
    if args.context is not None:
        words.append(f"--seq-length {args.context}")
    for leaf, value in {**flags_from_args(args), **options}.items():
        flag = leaf.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (list, tuple)):
            words.append(f"--{flag} {' '.join(shlex.quote(str(v)) for v in value)}")
        else:
            words.append(f"--{flag} {shlex.quote(str(value))}")
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


def _text(facts: dict[str, Any]) -> str:
    several = f"{facts['devices']} x " if facts["devices"] > 1 else ""
    shared = f"; shared by {facts['parallel']}" if facts["devices"] > 1 else ""
    lines = [
        f"{facts['model']}, rows of {facts['context']} tokens, on {several}"
        f"{facts['hardware']} ({byte_size(facts['memory_bytes'])}); goal: "
        f"{facts['goal']}",
        f"planned memory  {byte_size(facts['planned_bytes'])}, at most "
        f"{byte_size(facts['planned_bound_bytes'])} of each device; "
        f"{facts['micro_batch_size']} of {facts['global_batch_size']} rows of a step "
        f"in a forward{shared}",
    ]
    whose = facts["host_memory_of"]
    there = f"{byte_size(facts['host_memory_bytes'])} ({whose})"
    if host := facts["elsewhere_bytes"].get("host"):
        lines.append(f"in host memory  {byte_size(host)} for each process, of {there}")
    elif facts["options"]:
        lines.append(f"in host memory  nothing, of {there}")
    lines.append(f"a step          {facts['tokens_a_step']:,} tokens{_step(facts)}")
    lines.append(f"in the plan     {', '.join(facts['features']) or 'no feature'}")
    data = "" if "--train-data" in facts["flags"] else " --train-data FILES"
    lines += [f"warning: {one}" for one in facts["warnings"]]
    lines += [
        "",
        "as flags",
        f"  {facts['flags']}{data}",
        "as YAML",
        *(f"  {leaf}: {json.dumps(v)}" for leaf, v in facts["options"].items()),
        *(() if facts["options"] else ("  nothing beyond the defaults is needed",)),
        "what it costs",
        *(f"  {name}: {cost}" for name, cost in facts["costs"].items()),
        *(() if facts["costs"] else ("  nothing",)),
    ]
    before, now = facts["rows_a_step_before"], facts["global_batch_size"]
    if "global_batch_size" in facts["options"] and before != now:
        lines.append(
            f"  a step has {now} rows in place of {before}, which is another training "
            "and wants a lower --learning-rate"
        )
    if facts["left_out"]:
        lines.append("not used")
        lines += [f"  {name}: {_once(w)}" for name, w in facts["left_out"].items()]
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
        lines += [f"  {one}" for one in grouped(facts["unsupported"])]
        lines.append("  `lumina matrix --pairs --only FEATURES` tries them here")
    return "\n".join(lines)


def _step(facts: Mapping[str, Any]) -> str:
    return f", {facts['time']}" if facts["time"] else ""


def _once(why: str) -> str:
    """Of reasons that say the same of several things, the first."""
    first, *others = why.split("; ")
    alike = all(one.split()[2:] == first.split()[2:] for one in others)
    return first if alike else why


def grouped(sets: Sequence[Sequence[str]]) -> list[str]:
    """Single features, and pairs in lines of one feature and all that go with it.

    Args:
        sets: of one or two names. Each pair is in one line: that of the feature which
            most of the pairs that are left hold.
    """
    lines = [one[0] for one in sets if len(one) == 1]
    left = [tuple(one) for one in sets if len(one) == 2]
    while left:
        counts = Counter(name for pair in left for name in pair)
        name = max(sorted(counts), key=counts.__getitem__)
        others = [
            next(one for one in pair if one != name) for pair in left if name in pair
        ]
        lines.append(f"{name} with {', '.join(sorted(others))}")
        left = [pair for pair in left if name not in pair]
    return lines
