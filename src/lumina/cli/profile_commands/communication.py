"""`lumina profile communication`: what ranks exchange in a step, and what it takes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.train.profiling.communication import CommunicationProfile

SUMMARY = "what several processes exchange in a step, and the time it takes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a training, and how much of it is profiled."""
    from lumina.cli.options import add_config_options
    from lumina.cli.profiling import STEPS, add_output

    group = add_output(parser)
    group.add_argument(
        "--warm-up",
        type=int,
        default=2,
        metavar="N",
        help="steps before those that are timed (default 2); --steps: steps that are "
        f"timed, and watched after that ({STEPS})",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Profile in every rank; start them first where `--nproc` asks for it."""
    from lumina.cli.options import config_from_args
    from lumina.cli.profiling import STEPS, at_least, folder_for
    from lumina.errors import LuminaError

    config = config_from_args(args)
    steps = at_least("steps", config.train.steps or STEPS, 1)
    warm_up = at_least("warm-up", args.warm_up, 0)
    launched = "WORLD_SIZE" in os.environ
    if not launched and config.processes < 2:
        raise LuminaError(
            "E002",
            "one process exchanges nothing",
            "add --nproc 2, or start the command with torchrun",
        )
    if not launched:
        if config.nodes.num_nodes > 1:
            raise LuminaError(
                "E002",
                "the ranks of several machines are started by torchrun here",
                "start `torchrun … -m lumina profile communication` on every machine",
            )
        folder_for("communication", args.output)  # refused before ranks are started
        return _in_ranks(args.words, config.processes)

    from lumina.assemble.ranks import Ranks
    from lumina.ending import closed_after
    from lumina.observe.console import Console
    from lumina.train.profiling.communication import profile_communication
    from lumina.train.profiling.session import Session

    console = Console(stream=sys.stderr, live=False)
    session = Session(config, warm_up + 2 * steps, console, several=True)
    leave = Ranks.from_environment().disconnect
    with closed_after(session.close, leave):
        found = profile_communication(
            session, warm_up=warm_up, steps=steps, tell=_tell_once
        )
        device = session.environment.device_name
    if os.environ.get("RANK", "0") == "0":
        _write(args, found, device)
    return 0


def _tell_once(text: str) -> None:
    from lumina.cli.profiling import tell

    if os.environ.get("RANK", "0") == "0":
        tell(text)


def _in_ranks(words: list[str], count: int) -> int:
    """Run the same command as this many ranks of this machine."""
    from lumina.assemble.ranks import meeting_place
    from lumina.cli.supervisor.processes import Processes, exit_code

    store, place = meeting_place()  # held as long as the ranks run
    processes = Processes()
    asked: list[int] = []

    def end(number: int, frame: object) -> None:
        asked.append(number)
        processes.forward(number)

    before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        shared = place | {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        processes.start(
            [sys.executable, "-m", "lumina", *words],
            [shared | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(count)],
        )
        while not processes.ended([]):
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        processes.kill()
        del store
    if asked:
        return 128 + asked[0]
    if processes.first is not None:
        return exit_code(processes.codes[processes.first])
    return 0


def _write(args: argparse.Namespace, found: CommunicationProfile, device: str) -> None:
    from lumina.cli.profiling import folder_for, write_figures

    figures = found.to_dict() | {"device": device}
    folder = folder_for("communication", args.output)
    write_figures(folder, figures)
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    print(_text(found, device))
    print(f"\nfigures: {folder / 'profile.json'}")


def _text(found: CommunicationProfile, device: str) -> str:
    from lumina.cli.profiling import milliseconds
    from lumina.cli.text import table
    from lumina.quantities import byte_size, share
    from lumina.train.profiling.communication import KINDS

    lines = [
        f"{found.world_size} processes ({found.parallel}) on {device}: a step takes "
        f"{milliseconds(found.step_time)} as it is, and "
        f"{milliseconds(found.watched_step_time)} with every collective waited for",
        "",
    ]
    times = {kind: getattr(found, f"{kind}_time") for kind in KINDS}
    rows = [
        [f"  {kind}", str(found.calls[kind]), milliseconds(seconds),
         share(seconds / found.watched_step_time)]
        for kind, seconds in times.items()
        if found.calls[kind]
    ]  # fmt: skip
    total = found.total_communication_time
    rows.append(["  all", str(sum(found.calls.values())), milliseconds(total),
                 share(found.communication_overhead)])  # fmt: skip
    lines.append(table(("  collective", "calls", "a step", "share"), rows,
                       right="calls share"))  # fmt: skip
    lines.append(f"  of it waiting for other ranks: {milliseconds(found.bubble_time)}")
    used = found.bandwidth_utilization
    lines.append(
        f"  sent by each rank: {byte_size(found.bytes)} a step"
        + ("" if used is None else f", at {share(used)} of the speed of a large "
           f"all-reduce alone ({byte_size(found.reference_bandwidth)}/s)")
    )  # fmt: skip
    if found.expert_alltoall_time:
        lines.append(
            f"  between experts: {milliseconds(found.expert_alltoall_time)}, "
            f"{share(found.expert_communication_overhead)} of the step"
        )
    return "\n".join(lines)
