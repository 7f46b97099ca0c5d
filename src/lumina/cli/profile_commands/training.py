"""`lumina profile training`: the time of steps by part and operation, what to try."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from lumina.train.profiling.session import Session
    from lumina.train.profiling.training import TrainingProfile

SUMMARY = "where the time of a step goes, with a trace and what to try"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a training, and how much of it is profiled."""
    from lumina.cli.options import add_config_options
    from lumina.cli.profiling import STEPS, add_output

    group = add_output(parser)
    group.add_argument(
        "--warm-up",
        type=int,
        default=3,
        metavar="N",
        help="steps before those that are timed (default 3)",
    )
    group.add_argument(
        "--trace-steps",
        type=int,
        default=3,
        metavar="N",
        help=(
            "steps after those that are recorded operation by operation; 0: none "
            "(default 3)"
        ),
    )
    group.add_argument(
        "--top",
        type=int,
        default=15,
        metavar="N",
        help=f"operations that are listed (default 15); --steps: timed ones ({STEPS})",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Profile and print; 130 where Ctrl-C ended it, with what was measured."""
    from lumina.cli.answering import Interruptible
    from lumina.cli.options import config_from_args
    from lumina.cli.profiling import STEPS, at_least, folder_for, tell, write_figures

    config = config_from_args(args)
    steps = at_least("steps", config.train.steps or STEPS, 1)
    warm_up = at_least("warm-up", args.warm_up, 0)
    traced = at_least("trace-steps", args.trace_steps, 0)
    folder = folder_for("training", args.output)

    import sys

    from lumina.ending import closed_after
    from lumina.observe.console import Console
    from lumina.train.profiling.session import Session
    from lumina.train.profiling.training import profile_training

    console = Console(stream=sys.stderr, live=False)
    session = Session(config, warm_up + steps + traced, console)
    with closed_after(session.close):
        with Interruptible() as interruption:
            found = profile_training(
                session,
                warm_up=warm_up,
                steps=steps,
                traced=traced,
                folder=folder,
                stopped=lambda: interruption.asked,
                tell=tell,
            )
        figures = _figures(session, found)
    write_figures(folder, figures)
    print(
        json.dumps(figures, indent=2) if args.json else _text(found, figures, args.top)
    )
    if not args.json:
        print(_files(folder, found))
    return 130 if found.interrupted else 0


def _figures(session: Session, found: TrainingProfile) -> dict[str, Any]:
    import torch

    from lumina.train.profiling.advice import Facts, what_to_try

    plan, machine = session.plan, session.environment
    facts = Facts(plan, machine, found, torch.get_num_threads())
    return {
        **found.to_dict(),
        "device": machine.device_name,
        "torch": machine.torch_version,
        "prepare_seconds": session.prepare_seconds,
        "what_to_try": what_to_try(facts) if found.steps else [],
        "plan": plan.to_dict(),
    }


def _text(found: TrainingProfile, figures: dict[str, Any], top: int) -> str:
    from lumina.cli.profiling import milliseconds
    from lumina.cli.text import table
    from lumina.quantities import rate, share

    if not found.steps:
        return "no step was timed"
    lines = [
        f"{len(found.steps)} steps on {figures['device']}: "
        f"{milliseconds(found.median)} each (median), "
        f"{rate(figures['tokens_per_second'])} tokens/s, MFU {share(found.mfu)}"
    ]
    if found.expected is not None:
        one = found.expected
        basis = "measured" if one.measured else "assumed"
        lines.append(
            f"the plan expected {milliseconds(one.likely)}, "
            f"{milliseconds(one.quick)} to {milliseconds(one.slow)} "
            f"({basis}: {one.why})"
        )
    rows = [
        [f"  {r.name}", milliseconds(r.median), milliseconds(r.slowest), share(r.share)]
        for r in found.rows
    ]
    head = ("  part", "median", "slowest", "share")
    lines += ["", table(head, rows, right="median slowest share")]
    if found.operations:
        shown = found.operations[:top]
        rows = [
            [
                f"  {one.name[:70]}",
                f"{one.calls:,.0f}",
                milliseconds(one.seconds),
                share(one.share),
            ]
            for one in shown
        ]
        head = ("  operation", "calls", "a step", "share")
        lines += ["", table(head, rows, right="calls share")]
        left = len(found.operations) - len(shown)
        lines += [f"  and {left} more (--top)"] if left else []
    if found.busy is not None:
        lines.append(f"  the GPU was busy for {found.busy:.0%} of the traced steps")
    lines += ["", "what to try:"]
    advice = figures["what_to_try"] or ["nothing stands out"]
    lines += [f"- {text}" for text in advice]
    return "\n".join(lines)


def _files(folder: Path, found: TrainingProfile) -> str:
    lines = [f"\nfigures: {folder / 'profile.json'}"]
    if found.traced:
        from lumina.train.profiling.training import TRACE

        lines.append(
            f"trace: {folder / TRACE} (open it at https://ui.perfetto.dev or in "
            "chrome://tracing; nothing is uploaded)"
        )
    return "\n".join(lines)
