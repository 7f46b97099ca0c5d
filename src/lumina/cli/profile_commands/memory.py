"""`lumina profile memory`: what steps take of a device, by part, beside the plan."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.train.profiling.memory import MemoryProfile

SUMMARY = "what steps take of a device, by part, beside the plan"

STEPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a training, and how much is looked at."""
    from lumina.cli.options import add_config_options
    from lumina.cli.profiling import add_output

    group = add_output(parser)
    group.add_argument(
        "--track-allocations",
        action="store_true",
        help="record every allocation of one step, and list what is there at its peak",
    )
    group.add_argument(
        "--top",
        type=int,
        default=15,
        metavar="N",
        help=f"allocations that are listed (default 15); --steps: steps ({STEPS})",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 130 where Ctrl-C ended it, with what was measured."""
    import sys

    from lumina.cli.answering import Interruptible
    from lumina.cli.options import config_from_args
    from lumina.cli.profiling import at_least, folder_for, tell, write_figures
    from lumina.ending import closed_after
    from lumina.observe.console import Console
    from lumina.train.profiling.memory import profile_memory
    from lumina.train.profiling.session import Session

    config = config_from_args(args)
    steps = at_least("steps", config.train.steps or STEPS, 1)
    folder = folder_for("memory", args.output)
    session = Session(config, steps + 1, Console(stream=sys.stderr, live=False))
    with closed_after(session.close):
        with Interruptible() as interruption:
            found = profile_memory(
                session,
                steps=steps,
                track=args.track_allocations,
                stopped=lambda: interruption.asked,
                tell=tell,
            )
        figures = found.to_dict() | {
            "device": session.environment.device_name,
            "plan": session.plan.to_dict(),
        }
    write_figures(folder, figures)
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        print(_text(found, args.top))
        print(f"\nfigures: {folder / 'profile.json'}")
    return 130 if found.interrupted else 0


def _text(found: MemoryProfile, top: int) -> str:
    from lumina.cli.text import table
    from lumina.quantities import byte_size

    if not found.steps:
        return "no step was made"
    rows = [
        [f"  {part.name}", byte_size(part.planned), byte_size(part.measured)]
        for part in found.parts
    ]
    rows += [["  all, at the peak", byte_size(found.expected), byte_size(found.peak)]]
    lines = [
        f"{found.steps} steps, bytes {found.what}:",
        "",
        table(("  part", "planned", "measured"), rows, right="planned measured"),
        "",
        table(
            ("  part of a step", "peak", "after it"),
            [
                [f"  {one.name}", byte_size(one.peak), byte_size(one.after)]
                for one in found.phases
            ],
            right="peak",
        ),
        "",
        f"the plan allows {byte_size(found.bound)} at most, and the device has "
        f"{byte_size(found.have)}; before the first step {byte_size(found.before)}",
    ]
    if found.reserved:
        lines.append(
            f"the allocator has taken {byte_size(found.reserved)} from the GPU"
        )
    if found.peak > found.bound:
        lines.append("the peak is above what the plan allows: please report that")
    if found.allocations:
        shown = found.allocations[:top]
        rows = [[f"  {a.where[:70]}", byte_size(a.size), str(a.count)] for a in shown]
        head = ("  made by", "bytes", "count")
        lines += [
            "",
            f"one more step adds {byte_size(found.tracked_peak)} at its peak:",
            table(head, rows, right="bytes count"),
        ]
    lines += ["", "`lumina plan --show memory --detailed` says what lowers each part"]
    return "\n".join(lines)
