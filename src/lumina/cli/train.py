"""`lumina train`: train a model, or go on training one."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from lumina.cli.options import add_config_options, config_from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a configuration, and `--dry-run`."""
    add_config_options(parser, dry_run=True)


def run(args: argparse.Namespace) -> int:
    """Train; with `--nproc`, as several processes of the same command."""
    with _ending_signals():
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    config = config_from_args(args)
    nproc = config.system.processes
    if nproc > 1 and "WORLD_SIZE" not in os.environ and not args.dry_run:
        from lumina.train.launch import launch

        return launch(args.words, nproc)
    from lumina.train import Trainer

    trainer = Trainer(config)
    if args.dry_run:
        from lumina.plan.explain import explain
        from lumina.plan.time_estimate import estimate_here

        plan, environment, rows = trainer.explain()
        marks = trainer.begins_and_ends
        time = estimate_here(plan, environment)
        print(
            explain(
                plan,
                environment,
                rows_per_epoch=rows,
                stats=marks,
                time=time.lines() if time else (),
            )
        )
        return 0
    return trainer.train().exit_code


@contextlib.contextmanager
def _ending_signals() -> Iterator[None]:
    """End with a word and an exit code while torch is loaded, which takes seconds.

    Whatever trains then sets handlers of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":
        name = signal.Signals(number).name
        os.write(2, f"\nended by {name} before a step was trained\n".encode())
    raise SystemExit(128 + number)
