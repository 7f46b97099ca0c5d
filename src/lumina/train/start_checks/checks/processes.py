"""The processes that train are those that were asked for."""

from __future__ import annotations

import os

from lumina.errors import LuminaError
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("processes", "asked", here=True)
def check_processes(beginning: Beginning) -> None:
    """Refuse a number of processes, or of machines, that are not the ones running.

    Raises:
        LuminaError: E002.
    """
    launched = "WORLD_SIZE" in os.environ
    if beginning.planning and not launched:
        return  # the command starts them
    ranks, system = beginning.ranks, beginning.config.system
    here = ranks.local_size
    asked = system.nproc or len(system.cuda_ids) or None
    nodes = beginning.config.nodes.num_nodes
    if asked is not None and asked != here:
        if launched:
            raise LuminaError(
                "E002",
                f"--nproc is {asked}, and the environment says that {here} "
                f"process{' was' if here == 1 else 'es were'} started on this machine "
                "(WORLD_SIZE, LOCAL_WORLD_SIZE)",
                "leave --nproc out under torchrun; without a launcher, unset "
                "WORLD_SIZE and RANK",
            )
        raise LuminaError(
            "E002",
            f"nproc {asked} was asked of a single process",
            "use `lumina train --nproc N` or torchrun; Python starts one process",
        )
    if nodes > 1 and nodes * here != ranks.world_size:
        raise LuminaError(
            "E002",
            f"num_nodes is {nodes}, and {ranks.world_size} "
            f"process{'' if ranks.world_size == 1 else 'es'} of which {here} "
            f"{'is' if here == 1 else 'are'} on this machine cannot be on {nodes} "
            "machines",
            "start `lumina train --num-nodes N` or torchrun on every machine; Python "
            "starts one process",
        )
