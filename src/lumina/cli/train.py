"""`lumina train`: train a model, or go on training one."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from lumina import heartbeat, start_clock
from lumina.cli.options import add_config_options, config_from_args
from lumina.cli.supervisor.choice import BECAUSE, Choice, choose
from lumina.cli.supervisor.spawned import spawned
from lumina.cli.supervisor.training import (
    HandOverError,
    failures_left,
    hand_over,
    planned,
    restarted,
    tell,
)
from lumina.config import Config
from lumina.garbage import modules_stay
from lumina.libraries_ahead import load_ahead

if TYPE_CHECKING:
    from lumina.plan.environment import Environment
    from lumina.plan.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a configuration, and `--dry-run`."""
    parser.set_defaults(bare_words="--train-data")
    add_config_options(parser, dry_run=True)


def run(args: argparse.Namespace) -> int:
    """Train; with `--nproc`, as several processes of the same command."""
    with _ending_signals():
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    environment = dict(os.environ)
    heartbeat.begin()
    config = config_from_args(args)
    if not args.dry_run:
        config = spawned(config, environment, tell)
    config = restarted(config)
    if "TORCHELASTIC_RUN_ID" in environment and config.supervisor.hang_timeout:
        heartbeat.end_when_silent(config.supervisor.hang_timeout)
    choice = choose(config, environment, command=args.of_shell)
    os.environ.pop(BECAUSE, None)
    ours = heartbeat.watched() or "WORLD_SIZE" in environment or args.dry_run
    if not ours and (config.processes > 1 or choice.on):
        from lumina.cli.supervisor.launch import launch

        return launch(args.words, config, choice)
    try:
        with failures_left():
            return _train_here(args, config, choice)
    except HandOverError as handed:
        hand_over(args.words, handed.why, environment)


def _train_here(args: argparse.Namespace, config: Config, choice: Choice) -> int:
    _load(config, dry_run=args.dry_run)
    from lumina.plan.time_estimate import estimate_here
    from lumina.train import Trainer

    def before_start(plan: Plan, machine: Environment, first_step: int) -> str:
        left = max(plan.steps - first_step, 0)
        time = estimate_here(plan, machine, left)
        return planned(choice, time.seconds[1] if time else None)

    trainer = Trainer(config, before_start=before_start)
    if args.dry_run:
        from lumina.plan.explain import explain

        plan, environment, rows = trainer.explain()
        marks = trainer.begins_and_ends
        time = estimate_here(plan, environment)
        lines = time.lines() if time else []
        supervised = choice.after_planning(time.seconds[1] if time else None)
        print(
            explain(
                plan,
                environment,
                rows_per_epoch=rows,
                stats=marks,
                time=lines,
            )
        )
        print(f"\nSupervised\n  {supervised.in_words()}")
        return 0
    return trainer.train().exit_code


def _load(config: Config, *, dry_run: bool) -> None:
    """Load torch and what trains, with all that needs no Python beside it."""
    if "torch" in sys.modules:  # Python called the command, or a server has forked it
        return
    start_clock.begin()
    load_ahead(gpu=not dry_run and _takes_gpu_first(config))
    with modules_stay():
        start_clock.part(start_clock.TORCH)
        import torch  # noqa: F401

        start_clock.part(start_clock.LUMINA)
        import lumina.train  # noqa: F401


def _takes_gpu_first(config: Config) -> bool:
    """Whether this process is the first of the run that uses a GPU, and on which is
    known.

    A context takes some hundred megabytes, which processes that measure what fits
    would lack. `--cuda-ids` makes fewer GPUs visible once torch is loaded.
    """
    system = config.system
    measures = (
        config.batch_search.auto_batch_size
        or config.recovery.preflight
        or config.safety.safe_optimizations == "prove"
    )
    here = system.device in ("auto", "cuda") and not system.cuda_ids
    return here and not measures


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
