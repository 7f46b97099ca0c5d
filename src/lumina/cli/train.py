"""`lumina train`: train a model, or go on training one."""

from __future__ import annotations

import argparse
import os

from lumina.cli.options import add_config_options, config_from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a configuration, and `--dry-run`."""
    add_config_options(parser, dry_run=True)


def run(args: argparse.Namespace) -> int:
    """Train; with `--nproc`, as several processes of the same command."""
    config = config_from_args(args)
    nproc = config.system.nproc or 1
    if nproc > 1 and "WORLD_SIZE" not in os.environ and not args.dry_run:
        from lumina.train.launch import launch

        return launch(args.words, nproc)
    from lumina.train import Trainer

    trainer = Trainer(config)
    if args.dry_run:
        from lumina.plan.explain import explain

        plan, environment, rows = trainer.explain()
        print(explain(plan, environment, rows_per_epoch=rows))
        return 0
    return trainer.train().exit_code
