"""Trains in processes of its own: one that is supervised, or the ranks of `--nproc`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lumina.cli.supervisor.choice import Choice
from lumina.cli.supervisor.supervisor import Settings, Supervisor
from lumina.cli.supervisor.training import tell
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
    meet, nodes = None, None
    if config.nodes.num_nodes > 1:
        from lumina.assemble.nodes import Nodes

        nodes = Nodes(config.nodes, nproc, tell)
    elif nproc > 1:
        # Loads torch, which takes seconds: before signals are passed on, one that ends
        # the run ends it at once.
        from lumina.assemble.ranks import meeting_place

        meet = meeting_place

    def ranks() -> Sequence[dict[str, str]]:
        if nodes is not None:
            own = _own_interface(nodes.interface())
            return [own | place for place in nodes.environments()]
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
        tell,
        alone=config.processes == 1,
        elsewhere=nodes.elsewhere if nodes is not None else None,
        may_be_one=_may_be_one(config),
    )
    code = supervisor.run()
    if nodes is not None:
        nodes.leave(code)
    return code


def _own_interface(name: str | None) -> dict[str, str]:
    """What tells gloo and NCCL which network to use, where nobody has told them."""
    if name is None:
        return {}
    variables = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {key: name for key in variables if not os.environ.get(key)}


def _may_be_one(config: Config) -> bool:
    """Whether one process may train in place of several that could not begin."""
    several = config.processes > 1 and config.nodes.num_nodes == 1
    return several and not config.system.strict
