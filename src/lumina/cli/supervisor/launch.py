"""Trains in processes of its own: one that is supervised, or the ranks of `--nproc`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lumina.cli.supervisor.choice import Choice
from lumina.cli.supervisor.supervisor import Settings, Supervisor
from lumina.config import Config


def launch(arguments: list[str], config: Config, choice: Choice) -> int:
    """Run `lumina ARGUMENTS` as one process or as several ranks, and wait for them.

    Signals are passed on, so that every rank can end with a checkpoint. When one rank
    fails the others, which would wait for it for ever, are ended.

    Args:
        arguments: of the command, without the program's name.
        config: the settings of the run.
        choice: whether it is started again when it fails.

    Returns:
        The exit code of the rank that failed first, or 0; 129, 130 or 143 when a
        signal ended the run.
    """
    nproc = config.system.processes
    asked = config.supervisor
    places: list[object] = []
    meet = None
    if nproc > 1:
        # Loads torch, which takes seconds: before signals are passed on, one that ends
        # the run ends it at once.
        from lumina.assemble.ranks import meeting_place

        meet = meeting_place

    def ranks() -> Sequence[dict[str, str]]:
        if meet is None:
            return [{}]
        places.clear()
        store, place = meet()
        places.append(store)  # the ranks meet there as long as they run
        shared = place | {"WORLD_SIZE": str(nproc), "LOCAL_WORLD_SIZE": str(nproc)}
        return [
            shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            for rank in range(nproc)
        ]

    supervisor = Supervisor(
        [sys.executable, "-m", "lumina", *arguments],
        ranks,
        Settings(choice, asked.max_restarts, asked.restart_delay, asked.hang_timeout),
        _say,
        alone=nproc == 1,
    )
    return supervisor.run()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
