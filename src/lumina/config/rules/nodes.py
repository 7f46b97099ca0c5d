"""Several machines: what each has to say, and what only one machine can do."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings

_ONLY_SEVERAL = ("node_rank", "master_addr", "master_port")


def check(settings: Settings) -> None:
    """Refuse a machine that does not say which it is, or where the others are.

    Raises:
        LuminaError: E002.
    """
    nodes, count = settings.nodes, settings.nodes.num_nodes
    rank = nodes.node_rank
    if count == 1:
        if rank:
            refuse(
                f"node_rank is {rank}, and there is one machine (num_nodes)",
                f"use num_nodes {rank + 1} or more, or leave node_rank out",
            )
        return
    if settings.supervisor.supervise:
        refuse(
            f"supervise starts the processes of one machine again, and num_nodes is "
            f"{count}",
            "leave supervise out and go on with --auto-resume, or use torchrun with "
            "--max-restarts on every machine",
        )
    if settings.batch_search.auto_batch_size:
        refuse(
            f"auto_batch_size measures one process, and num_nodes is {count}",
            "measure on one machine first, and give the batch_size that it finds",
        )
    if rank is not None and rank >= count:
        refuse(
            f"node_rank is {rank}, and num_nodes is {count}",
            f"count the machines from 0 to {count - 1}",
        )
    if rank and not nodes.master_port:
        refuse(
            f"master_port is 0 on machine {rank}",
            "0 is for machine 0, which names the port that it takes: give that one",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options without effect, and why."""
    if settings.nodes.num_nodes > 1:
        return {}
    return dict.fromkeys(_ONLY_SEVERAL, "num_nodes is 1")


RULE = Rule(check=check, without_effect=without_effect)
